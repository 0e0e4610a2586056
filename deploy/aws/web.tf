# The website: Fargate behind a load balancer that speaks TLS, in the default network of the account.
data "aws_vpc" "here" {
  default = true
}

data "aws_subnets" "here" {
  filter {
    name   = "vpc-id"
    values = [data.aws_vpc.here.id]
  }

  filter {
    name   = "default-for-az"
    values = ["true"]
  }
}

resource "aws_secretsmanager_secret" "token" {
  name = "inflame-web-token"
}

resource "aws_cloudwatch_log_group" "web" {
  name              = "/inflame/web"
  retention_in_days = 30
}

resource "aws_security_group" "front" {
  name        = "inflame-front"
  description = "the load balancer: anyone by TLS"
  vpc_id      = data.aws_vpc.here.id
}

resource "aws_security_group" "web" {
  name        = "inflame-web"
  description = "the website: the load balancer alone"
  vpc_id      = data.aws_vpc.here.id
}

resource "aws_vpc_security_group_ingress_rule" "anyone" {
  for_each          = toset(["80", "443"])
  security_group_id = aws_security_group.front.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = tonumber(each.value)
  to_port           = tonumber(each.value)
}

resource "aws_vpc_security_group_egress_rule" "front_to_web" {
  security_group_id            = aws_security_group.front.id
  referenced_security_group_id = aws_security_group.web.id
  ip_protocol                  = "tcp"
  from_port                    = 8000
  to_port                      = 8000
}

resource "aws_vpc_security_group_ingress_rule" "web_from_front" {
  security_group_id            = aws_security_group.web.id
  referenced_security_group_id = aws_security_group.front.id
  ip_protocol                  = "tcp"
  from_port                    = 8000
  to_port                      = 8000
}

# The image, the token and the log are fetched and kept by TLS; the website itself asks nobody.
resource "aws_vpc_security_group_egress_rule" "web_to_services" {
  security_group_id = aws_security_group.web.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_lb" "front" {
  name                       = "inflame"
  load_balancer_type         = "application"
  security_groups            = [aws_security_group.front.id]
  subnets                    = data.aws_subnets.here.ids
  drop_invalid_header_fields = true
}

resource "aws_lb_target_group" "web" {
  name                 = "inflame"
  target_type          = "ip"
  vpc_id               = data.aws_vpc.here.id
  port                 = 8000
  protocol             = "HTTP"
  deregistration_delay = 20

  health_check {
    path              = "/readyz"
    interval          = 10
    healthy_threshold = 2
  }
}

resource "aws_lb_listener" "tls" {
  load_balancer_arn = aws_lb.front.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.web.arn
  }
}

resource "aws_lb_listener" "to_tls" {
  load_balancer_arn = aws_lb.front.arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type = "redirect"

    redirect {
      port        = "443"
      protocol    = "HTTPS"
      status_code = "HTTP_301"
    }
  }
}

resource "aws_ecs_cluster" "web" {
  name = "inflame"
}

resource "aws_ecs_task_definition" "web" {
  family                   = "inflame-web"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = 1024
  memory                   = 2048
  execution_role_arn       = aws_iam_role.starts.arn

  volume {
    name = "scratch" # the image's /tmp: the log of answers, and what visitors shared; gone with the task
  }

  container_definitions = jsonencode([{
    name                   = "web"
    image                  = "${aws_ecr_repository.images.repository_url}:${var.image}"
    command                = ["--proxy", "--name", var.host, "/srv/model"]
    user                   = "10001"
    readonlyRootFilesystem = true
    stopTimeout            = 20
    linuxParameters        = { initProcessEnabled = true, capabilities = { drop = ["ALL"] } }
    portMappings           = [{ containerPort = 8000 }]
    mountPoints            = [{ sourceVolume = "scratch", containerPath = "/tmp" }]
    secrets                = [{ name = "INFLAME_WEB_TOKEN", valueFrom = aws_secretsmanager_secret.token.arn }]

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.web.name
        awslogs-region        = var.region
        awslogs-stream-prefix = "web"
      }
    }
  }])
}

resource "aws_ecs_service" "web" {
  name                               = "web"
  cluster                            = aws_ecs_cluster.web.id
  task_definition                    = aws_ecs_task_definition.web.arn
  launch_type                        = "FARGATE"
  desired_count                      = var.tasks
  deployment_minimum_healthy_percent = 100
  health_check_grace_period_seconds  = 60
  depends_on                         = [aws_lb_listener.tls]

  network_configuration {
    subnets          = data.aws_subnets.here.ids
    security_groups  = [aws_security_group.web.id]
    assign_public_ip = true # the default network has no other way to the registry; nobody is let in by it
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.web.arn
    container_name   = "web"
    container_port   = 8000
  }

  deployment_circuit_breaker { # back to the image of before where the new one doesn't answer
    enable   = true
    rollback = true
  }
}
