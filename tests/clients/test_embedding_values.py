"""What a call leaves open is left to the server."""

from diptych.clients.embedding_messages import prompts_request
from diptych.clients.embedding_values import PromptsCall
from diptych.v1 import embedding_cache_pb2 as pb


def test_open_fields_are_unspecified() -> None:
    request = prompts_request(PromptsCall(prompts=["a"]), "r")
    assert request == pb.EncodePromptsRequest(request_id="r", prompts=[pb.PromptInput(text="a")])


def test_absent_prompt_is_absent_in_the_message() -> None:
    request = prompts_request(PromptsCall(prompts=[None]), "r")
    assert not request.prompts[0].HasField("text")
