"""Batch: pictures and questions from a data set through any number of OpenAI-compatible servers, to one JSONL file."""

from trimkit.serving.batch.dataset import BadRow, Row, read_rows
from trimkit.serving.batch.requests import RequestSettings
from trimkit.serving.batch.run import BatchSummary, run_batch
from trimkit.serving.batch.servers import ServerSettings

__all__ = ["BadRow", "BatchSummary", "RequestSettings", "Row", "ServerSettings", "read_rows", "run_batch"]
