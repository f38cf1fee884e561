"""What the site remembers of a picture: who asked, for what, and how it ended."""

from django.db import models


class Picture(models.Model):
    """Its job's id is made from its own, so nothing more has to be stored to find the job."""

    user = models.CharField(max_length=100)
    prompt = models.CharField(max_length=300)
    output = models.JSONField(null=True)
    error = models.TextField(blank=True)
    created = models.DateTimeField(auto_now_add=True)

    @property
    def job_id(self):
        """The id of the request, which is Celery's task id."""
        return f"picture-{self.pk}"

    @property
    def waits(self):
        """Whether it has no end yet."""
        return self.output is None and not self.error
