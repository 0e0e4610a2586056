# Who may do what. Each role has what it needs and nothing else: resources are named, and only what has no name of its own
# (a token of the registry) is allowed for all.
data "aws_iam_policy_document" "taken_by" {
  for_each = { tasks = "ecs-tasks.amazonaws.com", training = "sagemaker.amazonaws.com" }

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = [each.value]
    }

    condition { # nobody else's tasks and jobs
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.here.account_id]
    }
  }
}

data "aws_iam_policy_document" "pulls" {
  statement {
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.images.arn]
  }
}

data "aws_iam_policy_document" "keeps_runs" {
  statement {
    actions   = ["s3:GetBucketLocation", "s3:ListBucket"]
    resources = [aws_s3_bucket.runs.arn]
  }

  statement {
    actions   = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
    resources = ["${aws_s3_bucket.runs.arn}/*"]
  }
}

# What starts the website: it pulls the image, reads the token and writes the log. The website itself has no role.
data "aws_iam_policy_document" "starts" {
  source_policy_documents = [data.aws_iam_policy_document.pulls.json]

  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [aws_secretsmanager_secret.token.arn]
  }

  statement {
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.web.arn}:*"]
  }
}

resource "aws_iam_role" "starts" {
  name               = "inflame-web"
  assume_role_policy = data.aws_iam_policy_document.taken_by["tasks"].json
}

resource "aws_iam_role_policy" "starts" {
  role   = aws_iam_role.starts.name
  policy = data.aws_iam_policy_document.starts.json
}

# What a job of `inflame launch --on sagemaker` may do: INFLAME_SAGEMAKER_ROLE.
data "aws_iam_policy_document" "trains" {
  source_policy_documents = [
    data.aws_iam_policy_document.pulls.json,
    data.aws_iam_policy_document.keeps_runs.json,
  ]

  statement {
    actions   = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    resources = ["arn:aws:logs:${var.region}:${data.aws_caller_identity.here.account_id}:log-group:/aws/sagemaker/TrainingJobs*"]
  }

  statement {
    actions   = ["cloudwatch:PutMetricData"]
    resources = ["*"]

    condition {
      test     = "StringEquals"
      variable = "cloudwatch:namespace"
      values   = ["/aws/sagemaker/TrainingJobs"]
    }
  }
}

resource "aws_iam_role" "trains" {
  name               = "inflame-training"
  assume_role_policy = data.aws_iam_policy_document.taken_by["training"].json
}

resource "aws_iam_role_policy" "trains" {
  role   = aws_iam_role.trains.name
  policy = data.aws_iam_policy_document.trains.json
}
