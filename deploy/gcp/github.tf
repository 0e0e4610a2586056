# GitHub's workflows prove who they are with a token of their own: no key is made, so none can be lost.
resource "google_iam_workload_identity_pool" "github" {
  workload_identity_pool_id = "github"
  depends_on                = [google_project_service.used]
}

resource "google_iam_workload_identity_pool_provider" "github" {
  workload_identity_pool_id          = google_iam_workload_identity_pool.github.workload_identity_pool_id
  workload_identity_pool_provider_id = "github"
  attribute_condition                = "assertion.repository == '${var.repository}' && assertion.ref == 'refs/heads/main'"

  attribute_mapping = {
    "google.subject" = "assertion.sub"
  }

  oidc {
    issuer_uri = "https://token.actions.githubusercontent.com"
  }
}

# Three of them, so that what trains can't change what serves. `train` is what the workflow of that name does on the branch
# main; `job` is the machine of Vertex AI that it sends a training to; `deploy` is whoever the environment `production` of
# the repository lets through, where reviewers can be asked.
resource "google_service_account" "is" {
  for_each = {
    train  = "inflame: sends trainings and compares"
    job    = "inflame: trains on Vertex AI"
    deploy = "inflame: puts models to work"
  }
  account_id   = "inflame-${each.key}"
  display_name = each.value
}

moved {
  from = google_service_account.deploy
  to   = google_service_account.is["deploy"]
}

resource "google_service_account_iam_member" "github_is" {
  for_each = {
    train  = "repo:${var.repository}:ref:refs/heads/main"
    deploy = "repo:${var.repository}:environment:production"
  }
  service_account_id = google_service_account.is[each.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "principal://iam.googleapis.com/${google_iam_workload_identity_pool.github.name}/subject/${each.value}"
}

# --- train ---------------------------------------------------------------------------------------

# What `inflame doctor --on vertexai` prints. Acting as the job's account is given for that account alone, below.
resource "google_project_iam_custom_role" "sends" {
  role_id = "inflameSends"
  title   = "inflame: sends jobs"
  permissions = [
    "aiplatform.customJobs.create", "aiplatform.customJobs.get", "aiplatform.customJobs.list",
    "aiplatform.customJobs.cancel", "logging.logEntries.list",
  ]
  depends_on = [google_project_service.used]
}

resource "google_project_iam_custom_role" "runs" {
  role_id     = "inflameRuns"
  title       = "inflame: runs"
  permissions = ["storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list"]
  depends_on  = [google_project_service.used]
}

resource "google_project_iam_member" "train_sends" {
  project = var.project
  role    = google_project_iam_custom_role.sends.id
  member  = google_service_account.is["train"].member
}

resource "google_service_account_iam_member" "train_sends_as_job" {
  service_account_id = google_service_account.is["job"].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.is["train"].member
}

resource "google_storage_bucket_iam_member" "keeps_runs" {
  for_each = toset(["train", "job"])
  bucket   = google_storage_bucket.kept["runs"].name
  role     = google_project_iam_custom_role.runs.id
  member   = google_service_account.is[each.key].member
}

resource "google_storage_bucket_iam_member" "train_reads_champions" {
  bucket = google_storage_bucket.kept["champions"].name
  role   = "roles/storage.objectViewer"
  member = google_service_account.is["train"].member
}

# --- deploy --------------------------------------------------------------------------------------

resource "google_storage_bucket_iam_member" "deploy_reads_runs" {
  bucket = google_storage_bucket.kept["runs"].name
  role   = "roles/storage.objectViewer"
  member = google_service_account.is["deploy"].member
}

resource "google_storage_bucket_iam_member" "deploy_keeps_champions" {
  bucket = google_storage_bucket.kept["champions"].name
  role   = google_project_iam_custom_role.runs.id
  member = google_service_account.is["deploy"].member
}

resource "google_artifact_registry_repository_iam_member" "deploy_pushes" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.is["deploy"].member
}

resource "google_cloud_run_v2_service_iam_member" "deploy_changes" {
  name     = google_cloud_run_v2_service.web.name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.is["deploy"].member
}

resource "google_service_account_iam_member" "deploy_runs_as_web" {
  service_account_id = google_service_account.web.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.is["deploy"].member
}

# Where the cluster is, and no more: what it may do there is said by deploy/kubernetes/deployer.yaml.
resource "google_project_iam_member" "deploy_finds_cluster" {
  count   = var.cluster == "" ? 0 : 1
  project = var.project
  role    = "roles/container.clusterViewer"
  member  = google_service_account.is["deploy"].member
}
