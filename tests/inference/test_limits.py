"""The default bounds fit what they bound."""

from diptych.inference.limits import Limits


def test_inline_bytes_leave_room_for_four_prompts_in_a_message() -> None:
    limits = Limits()
    assert limits.max_inline_bytes + 4 * limits.max_prompt_bytes + 4096 <= 4 * 1024 * 1024


def test_latents_of_three_largest_images_fit_into_a_message() -> None:
    limits = Limits()
    one = 4 * 4 * (limits.max_side // 8) ** 2
    assert limits.max_inline_bytes // one >= 3
