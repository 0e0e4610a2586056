CREATE DATABASE mlflow OWNER inflame;
