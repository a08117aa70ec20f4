"""``doctor``: everything that can be found out about a deployment before a customer does."""

from oauth_app.doctor.examination import examine
from oauth_app.doctor.finding import Finding, Level, accept

__all__ = ["Finding", "Level", "accept", "examine"]
