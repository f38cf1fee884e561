"""The site's own tests: its jobs run on a function, without a server."""

from django.test import TestCase
from django.urls import reverse

from bridge.testing import bridge_tasks
from pictures.models import Picture
from studio.celery import app


class Pictures(TestCase):
    def submit(self, prompt):
        with self.captureOnCommitCallbacks(execute=True):
            self.client.post(reverse("submit"), {"prompt": prompt})
        return Picture.objects.get()

    def test_a_picture_is_saved(self):
        sent = self.enterContext(bridge_tasks(app, run=lambda input, **_: {"svg": input["prompt"]}))
        picture = self.submit("a heron")
        self.assertEqual(picture.output, {"svg": "a heron"})
        self.assertEqual(sent.calls[0][1]["metadata"], {"tenant": "ann"})

    def test_a_cancel_is_sent(self):
        asked = []
        self.enterContext(bridge_tasks(app, cancel=lambda **what: asked.append(what) or {"outcome": "requested"}))
        picture = Picture.objects.create(user="ann", prompt="a heron")
        self.client.post(reverse("cancel", args=[picture.pk]))
        self.assertEqual(asked, [{"id": picture.job_id, "by": "ann"}])
        self.assertContains(self.client.get(reverse("index")), "cancelled by ann")
