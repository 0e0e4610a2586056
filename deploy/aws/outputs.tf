output "url" {
  description = "The website."
  value       = "https://${var.host}/"
}

output "front" {
  description = "What the name of the website points at (CNAME)."
  value       = aws_lb.front.dns_name
}

output "bucket" {
  description = "For runs: --output s3://…/runs"
  value       = "s3://${aws_s3_bucket.runs.bucket}"
}

output "images" {
  description = "Where images are pushed to."
  value       = aws_ecr_repository.images.repository_url
}

output "training_role" {
  description = "What jobs may do: INFLAME_SAGEMAKER_ROLE."
  value       = aws_iam_role.trains.arn
}
