"""The page and what its script asks."""

from django.urls import path

from pictures import views

urlpatterns = [
    path("", views.index, name="index"),
    path("pictures", views.submit, name="submit"),
    path("pictures/<int:pk>", views.state, name="state"),
    path("pictures/<int:pk>/cancel", views.cancel, name="cancel"),
]
