# The website. It may read its token and nothing else.
resource "google_service_account" "web" {
  account_id   = "inflame-web"
  display_name = "inflame: the website"
}

resource "google_secret_manager_secret" "token" {
  secret_id = "inflame-web-token"
  replication {
    auto {}
  }
  depends_on = [google_project_service.used]
}

resource "google_secret_manager_secret_iam_member" "web_reads_token" {
  secret_id = google_secret_manager_secret.token.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.web.member
}

resource "google_cloud_run_v2_service" "web" {
  name     = "inflame"
  location = var.region

  template {
    service_account                  = google_service_account.web.email
    max_instance_request_concurrency = 32

    scaling {
      min_instance_count = 0
      max_instance_count = 4
    }

    containers {
      image = "gcr.io/cloudrun/hello"

      ports {
        container_port = 8000
      }

      env {
        name = "INFLAME_WEB_TOKEN"
        value_source {
          secret_key_ref {
            secret  = google_secret_manager_secret.token.secret_id
            version = "latest"
          }
        }
      }

      resources {
        limits            = { cpu = "1", memory = "1Gi" }
        cpu_idle          = true
        startup_cpu_boost = true
      }
    }
  }

  lifecycle {
    ignore_changes = [template[0].containers[0].image, template[0].revision, client, client_version, traffic]
  }
  depends_on = [google_secret_manager_secret_iam_member.web_reads_token]
}

resource "google_cloud_run_v2_service_iam_member" "anyone" {
  count    = var.public ? 1 : 0
  name     = google_cloud_run_v2_service.web.name
  location = var.region
  role     = "roles/run.invoker"
  member   = "allUsers"
}
