output "url" {
  description = "The website."
  value       = google_cloud_run_v2_service.web.uri
}

output "bucket" {
  description = "For runs: output=gs://…/runs/NAME"
  value       = "gs://${google_storage_bucket.runs.name}"
}

output "variables" {
  description = "Variables of the repository on GitHub, for the workflows train and deploy."
  value = {
    GCP_PROVIDER = google_iam_workload_identity_pool_provider.github.name
    GCP_ACCOUNT  = google_service_account.deploy.email
    GCP_PROJECT  = var.project
    GCP_REGION   = var.region
    GCP_IMAGES   = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
  }
}
