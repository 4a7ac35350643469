"""AskUserQuestion: questions with options, which only the user answers; the answers come back in the input."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from runner.effects import AskUser, Effect, Place
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described, tool_error

DESCRIPTION = described(__file__)


class Option(Arguments):
    """One answer to choose."""

    label: str = Field(min_length=1, description="The option in one to five words")
    description: str = Field(description="What it means, or what follows from it")
    preview: str | None = Field(None, description="What it would look like, as text")


class Question(Arguments):
    """One question."""

    question: str = Field(min_length=1, description="The whole question, ending with a question mark")
    header: str = Field(min_length=1, description="What it is about, in at most twelve characters")
    options: tuple[Option, ...] = Field(min_length=2, max_length=4, description="Different from each other")
    multi_select: bool = Field(default=False, alias="multiSelect", description="Whether several can be chosen")


class AskUserQuestionArguments(Arguments):
    """What an AskUserQuestion call may say. Answers that the model itself puts in count for nothing."""

    questions: tuple[Question, ...] = Field(min_length=1, max_length=4, description="At most four at once")
    answers: SkipJsonSchema[dict[str, str] | None] = None
    annotations: SkipJsonSchema[dict[str, Any] | None] = None
    metadata: SkipJsonSchema[dict[str, Any] | None] = None

    @model_validator(mode="after")
    def _distinct(self) -> AskUserQuestionArguments:
        asked = [question.question for question in self.questions]
        if len(set(asked)) < len(asked):
            msg = "two questions are the same"
            raise ValueError(msg)
        return self


class AskUserQuestion(Tool[AskUserQuestionArguments]):
    """Touches nothing."""

    name = "AskUserQuestion"
    args = AskUserQuestionArguments
    asks = True

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: AskUserQuestionArguments, place: Place) -> tuple[Effect, ...]:
        """The user is asked, in every mode."""
        del args, place
        return (AskUser(about="questions"),)

    async def run(self, args: AskUserQuestionArguments, ctx: ToolContext) -> ToolResult:
        """Hand the answers to the model. Only those that came with the approval count."""
        answers = {q.question: ctx.answers[q.question] for q in args.questions if q.question in ctx.answers}
        if not answers:
            return tool_error("The user gave no answer. Go on with what you think best, and say what you assumed.")
        text = "The user answered:\n" + "\n".join(f"- {question} {answer}" for question, answer in answers.items())
        questions = [question.model_dump(by_alias=True, exclude_none=True) for question in args.questions]
        return ToolResult(for_model=text, for_user={"questions": questions, "answers": answers})
