"""The team's own tasks: short ones. What took minutes on a GPU is `bridge.run`, which the bridge worker does."""

from celery import chord, current_app, shared_task

from pictures.models import Picture


def job(picture):
    """The job of a picture, as a signature; its id is the picture's."""
    return current_app.signature(
        "bridge.run",
        kwargs={
            "input": {"prompt": picture.prompt},
            "timeout": 600_000,
            "retries": 3,
            "metadata": {"tenant": picture.user},
        },
        task_id=picture.job_id,
    )


def start(picture):
    """Send it; `save` follows, or `failed`."""
    return (job(picture) | save.s(picture.pk)).apply_async(link_error=failed.si(picture.pk))


@shared_task
def save(output, picture_id):
    """What follows a job: its output comes as the first argument."""
    Picture.objects.filter(pk=picture_id).update(output=output, error="")


@shared_task
def failed(picture_id):
    """What follows a job that has failed; the error is the result under the job's id."""
    picture = Picture.objects.get(pk=picture_id)
    message, document = current_app.AsyncResult(picture.job_id).result.args
    told = document.get("error") or message
    picture.error = told["message"] if isinstance(told, dict) else told
    picture.save(update_fields=["error"])


@shared_task
def picture_of_the_day():
    """By beat. The day is part of the row, so that a message that is delivered twice makes one picture."""
    picture, _ = Picture.objects.get_or_create(
        user="beat", prompt=f"the picture of the day, {current_app.now().date()}"
    )
    start(picture)


@shared_task
def album(picture_ids):
    """A chord: many jobs, and one task when all have ended."""
    jobs = [job(Picture.objects.get(pk=picture_id)) for picture_id in picture_ids]
    return chord(jobs)(bind_album.s(picture_ids)).id


@shared_task
def bind_album(outputs, picture_ids):
    """The body of the chord: the outputs come in the order of the jobs."""
    for picture_id, output in zip(picture_ids, outputs, strict=True):
        save(output, picture_id)
    return len(outputs)
