"""The report: one self-contained HTML page for one run or several side by side, and a summary for the terminal."""

from mtpeft.report.joint_summary import markdown_table, print_joint_summary
from mtpeft.report.page import write_report
from mtpeft.report.terminal import print_summary

__all__ = ["markdown_table", "print_joint_summary", "print_summary", "write_report"]
