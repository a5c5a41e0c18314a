"""The requests and answers as pydantic models, from which the OpenAPI description is generated."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from ..errors import shown
from .limits import Refusal

Id = Annotated[StrictInt | StrictStr, Field(description="Original id. An integer and its text are the same id.")]


# Only the first error is reported; to collect those of a whole request takes a second.
Ids = Annotated[list[Id], Field(fail_fast=True)]


Value = Annotated[StrictInt | StrictStr, Field(description="A value of a cell, or one of its parts between bars.")]
Values = Annotated[list[Value], Field(fail_fast=True)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Rows = Annotated[list[Annotated[list[Number], Field(fail_fast=True)]], Field(fail_fast=True)]


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RecommendRequest(Message):
    """Lists for known users, or for users who are described by their history."""

    users: Ids | None = Field(None, description="Known users; one list each. Their seen items are left out.")
    histories: Annotated[list[Ids], Field(fail_fast=True)] | None = Field(
        None, description="Instead of users: the items of each new user; one list each, without these items."
    )
    k: StrictInt = Field(20, description="Length of a list.")
    exclude: Ids = Field([], description="Items that no list may contain, besides those seen.")
    candidates: Ids | None = Field(None, description="The only items that lists may contain. Default: all.")
    filters: dict[str, Value | Values] | None = Field(
        None,
        description="By column of the table of items: a value, or several of which an item must have one. Columns and "
        "candidates must all allow an item.",
    )
    diversity: Share = Field(0.0, description="From 0, the best items, to 1, the most different ones.")
    skip_unknown: StrictBool = Field(False, description="Ignore items that the model does not know.")


class ItemList(BaseModel):
    """A list, the best item first."""

    user: int | str | None = Field(description="The user as in the data; null for a history.")
    items: list[int | str] = Field(description="Original ids. Fewer than k if fewer are left.")
    scores: list[float] = Field(description="float32 inner products. All 0 for a user about whom nothing is known.")


class RecommendAnswer(BaseModel):
    lists: list[ItemList] = Field(description="In the order of the request.")
    model: str = Field(description="Version of the model, a hash of its embeddings.")


class SimilarRequest(Message):
    items: Ids = Field(description="Items; one list each.")
    k: StrictInt = Field(20, description="Length of a list.")
    by: Literal["all", "features"] = Field(
        "all", description="Compare the embeddings that score the items, or those of their features alone."
    )


class SimilarList(BaseModel):
    item: int | str
    items: list[int | str]
    cosines: list[float]


class SimilarAnswer(BaseModel):
    lists: list[SimilarList]
    model: str


class ItemsRequest(Message):
    """New items by their features, which training never saw. They are not kept."""

    items: Ids = Field(description="Ids of the new items, which the model must not have.")
    features: dict[str, Rows] = Field(description="For each modality of the model a row of numbers per item.")
    users: Ids | None = Field(None, description="Known users; one list of the new items each.")
    histories: Annotated[list[Ids], Field(fail_fast=True)] | None = Field(
        None, description="Instead of users: the items of each new user; one list of the new items each."
    )
    k: StrictInt = Field(20, description="Length of a list.")
    similar: StrictInt = Field(0, description="How many known items with similar features to name for each new item.")
    nearest: StrictInt = Field(
        0, description="The collaborative part is the mean of those of this many known items with similar features."
    )
    skip_unknown: StrictBool = Field(False, description="Ignore items of histories that the model does not know.")


class ItemsAnswer(BaseModel):
    lists: list[ItemList] = Field(description="Of the new items, in the order of the users or histories.")
    similar: list[SimilarList] = Field(description="In the order of the new items; empty if it was not asked for.")
    model: str


class Health(BaseModel):
    status: str
    model: str
    system: str
    data: str
    users: int
    items: int
    loaded: str = Field(description="When the model was loaded, UTC.")
    reload_error: str | None = Field(description="Why the last reload failed; the earlier model is in use.")


class Error(BaseModel):
    error: str = Field(description="One sentence that names what is wrong.")


Request = TypeVar("Request", bound=Message)


def parse(model: type[Request], body: bytes) -> Request:
    """The request in a body. Raises Refusal with one sentence: 400 if it is not JSON, 422 if it is another message."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise Refusal(400, f"the body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}") from None
    location, in_filters = first["loc"], first["loc"][:1] == ("filters",)
    named = location[:1] in (("filters",), ("features",))  # then the second part is a column or modality, also "int"
    union = location[-1:] in (("int",), ("str",)) and len(location) > 2 * named
    # pydantic adds the types of a union to the location; of a filter, it has those of the list as well
    parts = location[:2] if in_filters else location[:-1] if union else location
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    if union:
        what = "a value" if in_filters else "an id"
        raise Refusal(422, f"{place}: {what} must be a text or an integer of at most 4300 digits")
    if first["type"] == "extra_forbidden":
        raise Refusal(422, f"{shown(place)}: there is no such field; the fields are {', '.join(model.model_fields)}")
    text = first["msg"][0].lower() + first["msg"][1:]
    raise Refusal(422, f"{place or 'the body'}: {text}")
