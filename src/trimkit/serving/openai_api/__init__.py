"""What every server of trimkit takes and says: OpenAI's chat requests within limits, and its form of errors."""

from trimkit.serving.openai_api.chat import ChatPictures, parse_messages
from trimkit.serving.openai_api.errors import RequestError, error_body
from trimkit.serving.openai_api.limits import Limits, read_body

__all__ = ["ChatPictures", "Limits", "RequestError", "error_body", "parse_messages", "read_body"]
