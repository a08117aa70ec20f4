"""``doctor``: everything that can be found out about a deployment before a customer does."""

from enable_with_segment.oauth_app.doctor.examination import examine
from enable_with_segment.oauth_app.doctor.finding import Finding, Level, accept

__all__ = ["Finding", "Level", "accept", "examine"]
