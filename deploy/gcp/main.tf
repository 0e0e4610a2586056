# The website on Cloud Run, a bucket for runs, a registry for images, and GitHub's workflows allowed in without a key.
#
#   terraform init && terraform apply -var project=PROJECT -var repository=OWNER/NAME
#
# The first time there is no image yet: Cloud Run begins with a placeholder, and the workflow `deploy` takes over from
# there (it changes the image, which Terraform then leaves alone).
terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

resource "google_project_service" "used" {
  for_each = toset([
    "aiplatform.googleapis.com", "artifactregistry.googleapis.com", "cloudresourcemanager.googleapis.com",
    "container.googleapis.com", "iam.googleapis.com", "iamcredentials.googleapis.com", "logging.googleapis.com",
    "run.googleapis.com", "secretmanager.googleapis.com", "sts.googleapis.com",
  ])
  service            = each.value
  disable_on_destroy = false
}

# Training writes into the first one; what serves, and what served before, is in the second, which only `deploy` writes.
resource "google_storage_bucket" "kept" {
  for_each = {
    runs      = "${var.project}-inflame"
    champions = "${var.project}-inflame-champions"
  }
  name                        = each.value
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      num_newer_versions = 3
      with_state         = "ARCHIVED"
    }
    action {
      type = "Delete"
    }
  }
}

moved {
  from = google_storage_bucket.runs
  to   = google_storage_bucket.kept["runs"]
}

resource "google_artifact_registry_repository" "images" {
  repository_id = "inflame"
  location      = var.region
  format        = "DOCKER"
  depends_on    = [google_project_service.used]
}
