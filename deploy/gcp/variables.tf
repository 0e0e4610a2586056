variable "project" {
  description = "The project that all of it is made in."
  type        = string
}

variable "region" {
  description = "Where it runs and where data lie."
  type        = string
  default     = "europe-west1"
}

variable "repository" {
  description = "OWNER/NAME of the repository on GitHub whose workflows may train and deploy."
  type        = string
}

variable "public" {
  description = "Whether anyone may open the website."
  type        = bool
  default     = true
}
