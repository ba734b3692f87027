"""What a service needs, written down for those who make things with CloudFormation or Terraform."""

from pipeline.export.cloudformation import cloudformation
from pipeline.export.terraform import terraform

__all__ = ["cloudformation", "terraform"]
