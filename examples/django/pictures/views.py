"""One page: submit, progress, cancel."""

from celery import current_app
from django.db import transaction
from django.http import JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from pictures.models import Picture
from pictures.tasks import start

USER = "ann"  # your project has request.user


@require_GET
def index(request):
    """The page."""
    return render(request, "pictures/index.html", {"pictures": Picture.objects.order_by("-pk")[:20]})


@require_POST
def submit(request):
    """A picture and its job; sent when the row can be seen by the worker that saves."""
    picture = Picture.objects.create(user=USER, prompt=request.POST["prompt"][:300])
    transaction.on_commit(lambda: start(picture))
    return redirect("index")


@require_GET
def state(request, pk):
    """What the page's script asks for; no call to RunPod, and until `save` has run no end."""
    picture = get_object_or_404(Picture, pk=pk)
    if not picture.waits:
        return JsonResponse({"state": "FAILURE" if picture.error else "SUCCESS", "error": picture.error})
    job = current_app.AsyncResult(picture.job_id)
    info = job.info if isinstance(job.info, dict) else {}
    told = {name: info.get(name) for name in ("progress", "waiting_for")}
    return JsonResponse({"state": "IN_PROGRESS" if job.ready() else job.state, **told})


@require_POST
def cancel(request, pk):
    """The cancel reaches the GPU; the answer need not be waited for. A job that ends before it is saved all the same."""
    picture = get_object_or_404(Picture, pk=pk)
    Picture.objects.filter(pk=pk, output__isnull=True).update(error=f"cancelled by {USER}")
    current_app.send_task("bridge.cancel", kwargs={"id": picture.job_id, "by": USER}, ignore_result=True)
    return redirect("index")
