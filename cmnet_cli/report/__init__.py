"""The pages that people open first."""

from cmnet_cli.report.page import write_report as write_report
