"""Imports what the processes of a stack import when they start, for the process that they are forked from."""
# ruff: noqa: F401

import alembic.command
import alembic.context

import prebuilds.cli.dev
import prebuilds.cli.worker
import prebuilds.http.serving
import prebuilds.provisioners.container.driver
import prebuilds.provisioners.process.driver
import prebuilds.provisioners.terraform.driver
import worker
from prebuilds.payloads import build_validators

build_validators()
