variable "region" {
  description = "Where it runs and where data lie."
  type        = string
  default     = "eu-central-1"
}

variable "host" {
  description = "The name that the website goes by, which points at the output `front`."
  type        = string
}

variable "certificate" {
  description = "The ARN of a certificate of AWS Certificate Manager for that name, in the same region."
  type        = string

  validation {
    condition     = startswith(var.certificate, "arn:aws:acm:")
    error_message = "It begins with arn:aws:acm: (aws acm list-certificates)."
  }
}

variable "image" {
  description = "The tag of the website's image, with the model in it."
  type        = string
  default     = "first"
}

variable "tasks" {
  description = "How many copies of the website run; 0 until there is an image."
  type        = number
  default     = 1
}
