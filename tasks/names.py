"""What the names in a request mean, and whether the caller may use what they mean.

Two names can meet: a runner may report an alias that is also a model, or an alias that another model has too. So a name
is always looked up among all models and lanes first, and only then is the caller's permission asked about the model or
the lane that was found. Every gateway and every consumer follows the same rule, whatever the order in which it has read
the models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.capabilities import ServedModel
from tasks.errors import NotAllowedByKey, UnknownLane, UnknownModel


@dataclass(frozen=True)
class Permission:
    """The lanes and models that a caller may use, each by any name that means it; None: all."""

    lanes: Sequence[str] | None = None
    models: Sequence[str] | None = None


EVERYTHING = Permission()


def meanings(models: Mapping[str, ServedModel]) -> dict[str, ServedModel]:
    """The model that each name means. A model's own name goes before every alias. An alias of several models means the
    first of them in the order of their names."""
    in_order = sorted(models.values(), key=lambda model: model.model, reverse=True)
    return {alias: model for model in in_order for alias in model.aliases} | dict(models)


def collisions(models: Mapping[str, ServedModel]) -> list[str]:
    """A sentence for each alias that means another model than the one that has it."""
    names = meanings(models)
    return [
        f"the name {alias!r} means the model {names[alias].model}, although it is an alias of {model.model} too"
        for model in sorted(models.values(), key=lambda model: model.model)
        for alias in dict.fromkeys(model.aliases)
        if names[alias].model != model.model
    ]


def usable_models(models: Mapping[str, ServedModel], permission: Permission) -> dict[str, ServedModel]:
    """The models that the permission allows, by name. A permission that names an alias allows the model behind it."""
    if permission.models is None:
        return dict(models)
    names = meanings(models)
    allowed = {names[name].model for name in permission.models if name in names}
    return {name: model for name, model in models.items() if name in allowed}


def names_of(model: ServedModel, models: Mapping[str, ServedModel]) -> list[str]:
    """The names that mean this model: its own, then its aliases, each once."""
    names = meanings(models)
    return [name for name in dict.fromkeys((model.model, *model.aliases)) if names[name].model == model.model]


def find_model(name: str, models: Mapping[str, ServedModel], permission: Permission = EVERYTHING) -> ServedModel:
    """The model of this name or alias. Raises UnknownModel and NotAllowedByKey, which name what may be used."""
    model = models.get(name) or meanings(models).get(name)
    if model is not None and permission.models is None:
        return model
    usable = usable_models(models, permission)
    if model is not None and model.model in usable:
        return model
    names = {name for usable_model in usable.values() for name in names_of(usable_model, models)}
    if permission.models is not None and (model is not None or name not in permission.models):
        allowed = sorted({*names, *permission.models})
        raise NotAllowedByKey(f"The key may use the models {', '.join(allowed)}.", field="model_name", allowed=allowed)
    raise UnknownModel(
        f"There is no model {name!r}. Models: {', '.join(sorted(names)) or 'none yet'}.",
        field="model_name",
        allowed=sorted(names),
    )


def find_lane(name: str | None, lanes: Sequence[str], permission: Permission = EVERYTHING) -> str:
    """The full topic name of a lane, given its full or short name. None means the first lane that the permission
    allows. Raises UnknownLane and NotAllowedByKey, which name what may be used."""
    if permission.lanes is None and (name is None or name in lanes):
        return name or lanes[0]
    by_name = {short_lane(lane): lane for lane in lanes} | {lane: lane for lane in lanes}
    if permission.lanes is None:
        usable = list(lanes)
    else:
        allowed = {by_name.get(name) for name in permission.lanes}
        usable = [lane for lane in lanes if lane in allowed]
    if name is None and usable:
        return usable[0]
    if name is not None and (lane := by_name.get(name)) in usable:
        return lane
    if permission.lanes is None:
        raise UnknownLane(f"There is no lane {name!r}. Lanes: {', '.join(lanes)}.", field="topic", allowed=list(lanes))
    offered = usable or list(permission.lanes)
    raise NotAllowedByKey(f"The key may use the lanes {', '.join(offered)}.", field="topic", allowed=offered)


def short_lane(topic: str) -> str:
    """The short name of a lane, given its full topic name. A lane's short name has no dot."""
    return topic.rpartition(".")[2]
