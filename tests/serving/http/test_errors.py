from tsf_llm.serving.http import errors
from tsf_llm.serving.http.errors import LONGEST, describe, place, told


def test_places():
    assert place(("body", "requests", 2, "bars", "columns", "close", 7)) == "requests[2].bars.close[7]"
    assert len(place(("body", "x" * 1000))) == 80


def test_one_line_without_control_characters():
    message = told("invalid", "a\nb\x1b[31m" + "c" * 5000)["error"]["message"]
    assert message.startswith("a b\\x1b[31mccc")
    assert len(message) == LONGEST


def test_what_was_sent_is_not_repeated():
    error = {"type": "x", "loc": ("body", "horizon"), "msg": "give a number", "input": "secret"}
    assert describe([error, error]) == "horizon: give a number (and 1 more)"


def test_refusals_have_a_code_and_headers():
    response = errors.answer(errors.Refusal(429, "busy", "full", {"Retry-After": "1"}))
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert response.body == b'{"error":{"code":"busy","message":"full"}}'
