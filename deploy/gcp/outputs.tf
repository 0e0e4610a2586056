output "url" {
  description = "The website."
  value       = google_cloud_run_v2_service.web.uri
}

output "bucket" {
  description = "For runs: output=gs://…/runs/NAME"
  value       = "gs://${google_storage_bucket.kept["runs"].name}"
}

output "variables" {
  description = "Variables of the repository on GitHub, for the workflows train and deploy."
  value = {
    GCP_PROVIDER  = google_iam_workload_identity_pool_provider.github.name
    GCP_TRAINER   = google_service_account.is["train"].email
    GCP_JOB       = google_service_account.is["job"].email
    GCP_DEPLOYER  = google_service_account.is["deploy"].email
    GCP_PROJECT   = var.project
    GCP_REGION    = var.region
    GCP_RUNS      = "gs://${google_storage_bucket.kept["runs"].name}"
    GCP_CHAMPIONS = "gs://${google_storage_bucket.kept["champions"].name}"
    GCP_IMAGES    = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
    GCP_BACKEND   = var.backend
    GCP_CLUSTER   = var.cluster
  }
}

output "deployer" {
  description = "Who deploys, as Kubernetes may call it: deploy/kubernetes/deployer.yaml gives both names its rights."
  value       = [google_service_account.is["deploy"].email, google_service_account.is["deploy"].unique_id]
}
