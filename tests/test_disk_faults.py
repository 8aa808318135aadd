"""Threads that meet a full disk leave it to one message."""

import concurrent.futures
import errno
import logging
import os
import sys
import threading

import pytest

from tunix_ttt import errors
from tunix_ttt.runs import integrity
from tunix_ttt.runs import interrupts

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail_in_thread(error):
  def fail():
    raise error

  thread = threading.Thread(target=fail)
  thread.start()
  thread.join()


@pytest.fixture
def told(monkeypatch):
  """Errors that threads report."""
  errors = []
  monkeypatch.setattr(
    threading, "excepthook", lambda a: errors.append(a.exc_value)
  )
  monkeypatch.setattr(sys, "unraisablehook", lambda a: None)
  monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
  for name in ("absl", "asyncio", "concurrent.futures"):
    monkeypatch.setattr(logging.getLogger(name), "filters", [])
  return errors


def test_other_errors_are_reported(told, caplog):
  hook, error = threading.excepthook, ValueError("x")
  with integrity.silence_consequences():
    fail_in_thread(error)
    logging.getLogger("absl").error("y")
  assert told == [error] and caplog.messages == ["y"]
  assert threading.excepthook is hook
  assert not logging.getLogger("absl").filters


def test_a_full_disk_silences_those_that_come_after(told, caplog):
  logger = logging.getLogger("asyncio")
  with integrity.silence_consequences():
    logger.error("before")
    fail_in_thread(FULL)
    logger.error("Event loop is closed")
  fail_in_thread(RuntimeError("handle is closed"))
  assert told == [] and caplog.messages == ["before"]


def test_a_fault_that_ends_the_work_counts(told):
  with pytest.raises(OSError), integrity.silence_consequences():
    raise FULL
  fail_in_thread(RuntimeError("handle is closed"))
  assert told == []


class EndlessError(ValueError):
  """An error whose message is too long to format."""

  def __str__(self):
    raise AssertionError("formatted")


def test_the_cause_of_a_message_is_not_formatted():
  with (
    pytest.raises(errors.UserError, match="a message"),
    integrity.silence_consequences(),
  ):
    try:
      raise EndlessError
    except EndlessError:
      raise errors.UserError("a message") from None


def test_in_a_script_it_stays_so_until_the_end(told):
  hook = sys.unraisablehook
  with (
    pytest.raises(OSError),
    interrupts.in_script(),
    integrity.silence_consequences(),
  ):
    raise FULL
  assert sys.unraisablehook is not hook


def test_callbacks_of_other_threads_are_silent_too(told, capsys):
  def call_back():
    for text in ("Event loop is closed", "other"):
      error = RuntimeError(text)
      sys.excepthook(RuntimeError, error, None)

  with integrity.silence_consequences():
    thread = threading.Thread(target=call_back)
    thread.start()
    thread.join()
  assert capsys.readouterr().err == "RuntimeError: other\n"
  call_back()
  assert "Event loop" in capsys.readouterr().err


def test_callbacks_of_futures_are_silent_too(told, caplog):
  def call_back(text):
    def fail(_):
      raise RuntimeError(text)

    future = concurrent.futures.Future()
    future.add_done_callback(fail)
    thread = threading.Thread(target=future.set_result, args=(0,))
    thread.start()
    thread.join()

  with integrity.silence_consequences():
    call_back("Event loop is closed")
    assert caplog.messages == []
    call_back("other")
  assert len(caplog.messages) == 1
