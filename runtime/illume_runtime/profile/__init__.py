"""From spans to a report and to a trace file: `illume profile` and `--trace`."""

from illume_runtime.profile.report import REQUEST, RequestReport, StageRow, report_from_spans
from illume_runtime.profile.trace_file import json_from_spans, write_trace

__all__ = ["REQUEST", "RequestReport", "StageRow", "json_from_spans", "report_from_spans", "write_trace"]
