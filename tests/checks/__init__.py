"""A package, because a lesson's lab has a test file of the same name."""


def message_for(check, answer):
    """Return the message of a check for a wrong answer."""
    result = check(answer)
    assert not result.passed
    return result.message
