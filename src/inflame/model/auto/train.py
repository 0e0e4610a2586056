"""The training of any data set: look at the pictures, choose a road, climb its ladder until the time is over."""

from collections.abc import Callable
from typing import Any

from inflame.config import Settings
from inflame.errors import DataError
from inflame.model.engine import backbones, session
from inflame.records import Preprocess

from . import photos, plan, small, words

SQUARES = Preprocess(size=plan.CANVAS, resize=plan.CANVAS)


def train(settings: Settings) -> dict[str, Any]:
    """Trains, tests, bundles and reports; returns the result."""
    canvas = SQUARES if plan.may_be_photos(settings.io.training_input) else None
    with session.begin(settings, canvas=canvas, epochs=settings.hyperparam.num_epochs) as s:
        if s.dataset.kind == "text":
            s.reasons.because("road", "texts", "the items are texts")
            return words.train(s, settings)
        # Small pictures: a net of their own. Photos, or where weights were asked for: a pretrained net.
        road = plan.look(s.dataset)
        seen = f"the middle side of a picture is {road.middle} px, and above {plan.SMALL} px it counts as a photo"
        if not road.small or settings.weights or settings.net:
            found = [] if s.company.follows else _found(settings, lambda text: s.say("plan", text))
            if s.company.first(lambda: bool(found)):
                asked = "" if not road.small else "; a pretrained network was asked for"
                s.reasons.because("road", "photos: a pretrained network", f"{seen}{asked}")
                return photos.train(s, settings, found)
            road = plan.shrunk(road)
            seen += "; no pretrained network is at hand"
        s.reasons.because("road", f"a small net from scratch, {road.side} px", seen)
        return small.train(s, settings, road)


def _found(settings: Settings, say: Callable[[str], None]) -> list[backbones.Backbone]:
    """The pretrained nets to choose from: the one that was asked for, else all that are at hand."""
    if not settings.net:
        return backbones.at_hand(settings.weights, say)
    wanted = backbones.of(settings.net, settings.weights, lambda _: None)
    if not wanted.pretrained:
        raise DataError(
            f"There are no pretrained weights for {wanted.net} at hand, and without them a large net learns little.",
            where=f"net={settings.net}",
            remedy="Give them with weights=FILE, leave net out, or train it from scratch: fowl_classifier, net=…",
        )
    return [wanted]
