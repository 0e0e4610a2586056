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

variable "backend" {
  description = "Where the workflow train trains when nobody says: local (the machine that GitHub lends) or vertexai."
  type        = string
  default     = "local"

  validation {
    condition     = contains(["local", "vertexai"], var.backend)
    error_message = "Say local or vertexai."
  }
}

variable "cluster" {
  description = "A cluster of GKE in the region that gets the website too; empty for none."
  type        = string
  default     = ""
}
