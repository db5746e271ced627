"""Fixtures of the black-box tests: tiny models, and endpoints that serve them."""

from tests.support.served_models import models, served

__all__ = ["models", "served"]
