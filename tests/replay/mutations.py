"""Changes of workflows that break open runs: each moves, adds, drops or renames a command that a stored history has."""

from __future__ import annotations

from tests.replay.mutating import Mutation

MUTATIONS = [
    # --- The loop ---
    Mutation(
        *("PrebuildsOrchestrator", "stopped", "the snapshot becomes a local activity"),
        "workflow.execute_activity_method(\n                ReconcileActivities.find_work, "
        "args=[self._seen, self._interval_s], **READ_STATE\n",
        "workflow.execute_local_activity_method(\n                ReconcileActivities.find_work, "
        "args=[self._seen, self._interval_s], **RECORD\n",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "stopped", "a pass is not ended"),
        "await workflow.execute_activity_method(ReconcileActivities.end_pass, work.pass_number, **RECORD)",
        "pass",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "stopped", "an activity is renamed"),
        "workflow.execute_activity_method(ReconcileActivities.end_pass, work.pass_number, **RECORD)",
        'workflow.execute_activity("close_pass", work.pass_number, **RECORD)',
    ),
    Mutation(
        *("PrebuildsOrchestrator", "stopped", "the interval's timer begins after the pass"),
        "            self._schedule_next_pass(workflow.now() + timedelta(seconds=self._interval_s))\n"
        "            self._passes_begun += 1\n"
        "            span, self._causes = begin_pass(self._causes), []\n"
        "            self._causes.append(span)\n"
        "            self._pass = asyncio.create_task(self._run_pass(span), context=below(span))\n",
        "            self._passes_begun += 1\n"
        "            span, self._causes = begin_pass(self._causes), []\n"
        "            self._causes.append(span)\n"
        "            self._pass = asyncio.create_task(self._run_pass(span), context=below(span))\n"
        "            self._schedule_next_pass(workflow.now() + timedelta(seconds=self._interval_s))\n",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "stopped", "a child is of another type"),
        '"ReconcilePreset",',
        '"ReconcilePool",',
        module="preset_children",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "stopped", "a child has another id"),
        "id=reconcile_preset_id(preset),",
        'id=f"preset/{preset}",',
        module="preset_children",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "preset-busy", "a busy preset is wanted again without a pause"),
        "            await workflow.sleep(BUSY_PAUSE)\n",
        "",
        module="preset_children",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "asked", "a new interval does not move the next pass"),
        "if not self._due:\n            self._schedule_next_pass(min(",
        "if self._children.closed:\n            self._schedule_next_pass(min(",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "stopped-in-mid-pass", "the stop is recorded after the children"),
        "        recording = asyncio.create_task(self._record_stop(self._stop))\n"
        "        await self._wait_for_children(timedelta(seconds=self._input.drain_timeout_seconds))\n"
        "        await recording\n",
        "        await self._wait_for_children(timedelta(seconds=self._input.drain_timeout_seconds))\n"
        "        await self._record_stop(self._stop)\n",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "stopped-in-mid-pass", "the drain has no timeout"),
        "lambda: not self._children.reconciling and self._pass is None, timeout=timeout",
        "lambda: not self._children.reconciling and self._pass is None",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "canceled", "a cancellation cancels it"),
        '            self._request_stop("cancelled")\n',
        "            raise\n",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "renewed-when-idle", "the server's suggestion is not followed"),
        "events >= HISTORY_EVENTS or info.is_continue_as_new_suggested()",
        "events >= HISTORY_EVENTS",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "renewed-amid-work", "a long history waits for an idle moment"),
        "events >= HISTORY_EVENTS_MAX or (",
        "(",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "renewed-amid-work", "children are not awaited before the new run"),
        "        await self._wait_for_children(PASS_WAIT)\n",
        "",
    ),
    Mutation(
        *("PrebuildsOrchestrator", "went-on", "a new run forgets that a pass is due"),
        "carried.next_pass_at or workflow.now()",
        "workflow.now() + timedelta(minutes=1)",
    ),
    # --- One preset ---
    Mutation(
        *("ReconcilePreset", "replaces", "creations come before deletions"),
        "        deleted = await self._run_step(plan, ReconcileActivities.delete_prebuilds, plan.delete)\n"
        "        canceled = await self._run_step(plan, ReconcileActivities.cancel_builds, plan.cancel)\n"
        "        created = await self._run_step(plan, ReconcileActivities.create_prebuilds, plan.create)\n",
        "        created = await self._run_step(plan, ReconcileActivities.create_prebuilds, plan.create)\n"
        "        deleted = await self._run_step(plan, ReconcileActivities.delete_prebuilds, plan.delete)\n"
        "        canceled = await self._run_step(plan, ReconcileActivities.cancel_builds, plan.cancel)\n",
    ),
    Mutation(
        *("ReconcilePreset", "cancels", "cancellations are dropped"),
        "await self._run_step(plan, ReconcileActivities.cancel_builds, plan.cancel)",
        "0",
    ),
    Mutation(
        *("ReconcilePreset", "moves", "a resume is no move"),
        "        if not plan.resume and not plan.pause:",
        "        if not plan.pause:",
    ),
    Mutation(
        *("ReconcilePreset", "does-nothing", "an empty step is carried out"),
        "        if not ids:\n            return 0\n",
        "",
    ),
    Mutation(
        *("ReconcilePreset", "creates", "the plan becomes a normal activity"),
        "run_step(ReconcileActivities.plan_reconcile, input.preset_id, input.pending_max, bounds=STEP)",
        "workflow.execute_activity_method(\n"
        "                ReconcileActivities.plan_reconcile,\n"
        "                args=[input.preset_id, input.pending_max],\n"
        "                start_to_close_timeout=workflow.info().task_timeout,\n"
        "            )",
    ),
    Mutation(
        *("ReconcilePreset", "step-fails", "a failed step ends the pass"),
        "                self._errors.append(str(cause))\n",
        "                raise\n",
    ),
    Mutation(
        *("ReconcilePreset", "deletes", "a timer before the writes"),
        "        self._lost = 0\n        self._errors",
        "        await workflow.sleep(1)\n        self._lost = 0\n        self._errors",
    ),
    Mutation(
        *("ReconcilePreset", "refused", "a plan that failed is made once more"),
        "        except (InvalidInput, FailureError) as error:\n            raise refused(error) from None\n",
        "        except (InvalidInput, FailureError):\n"
        "            plan = await run_step(\n"
        "                ReconcileActivities.plan_reconcile, input.preset_id, input.pending_max, bounds=STEP\n"
        "            )\n",
    ),
    # --- A build ---
    Mutation(
        *("WorkspaceBuild", "succeeds", "the route is always looked up"),
        "if self._input.queue is not None and self._input.timeout_seconds is not None:",
        "if self._input.queue is None and self._input.timeout_seconds is not None:",
    ),
    Mutation(
        *("WorkspaceBuild", "ended-before", "a build that has ended is provisioned again"),
        "route.ended or await self._provision(route)",
        "await self._provision(route)",
    ),
    Mutation(
        *("WorkspaceBuild", "repeats", "the provisioning is renamed"),
        "workflow.execute_activity(\n            PROVISION,",
        'workflow.execute_activity(\n            "provision",',
    ),
    Mutation(
        *("WorkspaceBuild", "fails", "a failed build is closed once more"),
        "        return WorkspaceBuildResult(\n",
        "        if outcome.status is BuildStatus.FAILED:\n"
        '            await self._close(ApplicationError("failed"), route)\n'
        "        return WorkspaceBuildResult(\n",
    ),
    Mutation(
        *("WorkspaceBuild", "times-out", "a build that is late is not closed"),
        "return await self._close(error, route)",
        "return BuildOutcome(BuildStatus.FAILED, str(error))",
    ),
    Mutation(
        *("WorkspaceBuild", "canceled-at-work", "a cancelled build does not wait for its provisioner"),
        "ActivityCancellationType.WAIT_CANCELLATION_COMPLETED",
        "ActivityCancellationType.TRY_CANCEL",
    ),
    Mutation(
        *("WorkspaceBuild", "canceled-in-queue", "the end is a normal activity"),
        "run_step(BuildActivities.close_build, closing, bounds=CONTROL)",
        "workflow.execute_activity_method(\n"
        "            BuildActivities.close_build, closing, start_to_close_timeout=HOST_TIMEOUT\n"
        "        )",
    ),
    Mutation(*("WorkspaceBuild", "moves", "no build moves to another host"), "MOVES_MAX = 3", "MOVES_MAX = 0"),
    Mutation(
        *("WorkspaceBuild", "moves", "a timer before it moves"),
        "                outcome = await self._provision(BuildRoute(",
        "                await workflow.sleep(1)\n                outcome = await self._provision(BuildRoute(",
    ),
    Mutation(
        *("WorkspaceBuild", "host-away", "a host is looked for by a normal activity"),
        "run_step(BuildActivities.host_is_there, route.queue, bounds=CONTROL)",
        "workflow.execute_activity_method(\n"
        "            BuildActivities.host_is_there, route.queue, start_to_close_timeout=HOST_TIMEOUT\n"
        "        )",
    ),
    # --- Claims ---
    Mutation(
        *("ClaimWorkspace", "wins", "the claim becomes a normal activity"),
        "asyncio.create_task(run_step(activity, *args, bounds=DECIDE))",
        "workflow.start_activity_method(activity, args=args, start_to_close_timeout=LOOK_FIRST)",
    ),
    Mutation(
        *("ClaimWorkspace", "tries-again", "an attempt that has failed is repeated at once"),
        '        await workflow.sleep(pause_s, summary="until the next attempt")\n',
        "",
        module="steps",
    ),
    Mutation(
        *("ClaimWorkspace", "tries-again", "an attempt that has failed is the last one"),
        "if spent_s >= bounds.total_s:",
        "if spent_s >= 0:",
        module="steps",
    ),
    Mutation(
        *("ClaimWorkspace", "creates", "a marker before the claim"),
        "        decided = await self._step(ClaimActivities.claim,",
        '        workflow.upsert_memo({"claim": self._claim_id})\n'
        "        decided = await self._step(ClaimActivities.claim,",
    ),
    Mutation(
        *("ClaimWorkspace", "canceled-before", "a claim that was cancelled before is not recorded"),
        "            return await self._leave(only_input(raw))\n        return await self._claim(",
        "            raise\n        return await self._claim(",
    ),
    Mutation(
        *("ClaimWorkspace", "waits-and-wins", "who is woken looks twice"),
        "                place = await self._take_answer_or_place() or place\n",
        "                await self._take_answer_or_place()\n"
        "                place = await self._take_answer_or_place() or place\n",
    ),
    Mutation(
        *("ClaimWorkspace", "still-waits", "a waiting claim looks only when woken"),
        "self._woken or self._late, timeout=pause)",
        "self._woken or self._late)",
    ),
    Mutation(
        *("ClaimWorkspace", "waits-in-vain", "a claim leaves the queue without a word"),
        "        left = await self._step(ClaimActivities.leave_queue, raw, self._claim_id, self._run, outcome)\n"
        "        if left.result is not None:\n"
        "            return left.result\n",
        "",
    ),
    Mutation(
        *("ClaimWorkspace", "waits-and-creates", "a claim that may create does not"),
        'raw.get("on_timeout") == "create"',
        'raw.get("on_timeout") == "never"',
    ),
    Mutation(
        *("ClaimWorkspace", "waits-and-is-canceled", "a cancelled claim goes on waiting"),
        "            self._canceled = True\n        return True\n",
        "            pass\n        return True\n",
    ),
    Mutation(
        *("ClaimWorkspaces", "wins", "a timer before the claims"),
        "            # Also when it is cancelled meanwhile",
        "            await workflow.sleep(1)\n            # Also when it is cancelled meanwhile",
    ),
    Mutation(
        *("ClaimWorkspaces", "canceled-before", "a cancellation is not recorded"),
        "                claimed = await self._step(ClaimActivities.cancel_all, only_input(raw), claim_id, run)\n",
        "                claimed = None\n",
    ),
    # --- Requests, inventory, lint ---
    Mutation(
        *("OperatorRequest", "canceled-at-work", "a request that was cut off is not ended"),
        "            ending = workflow.start_activity_method(OperatorActivities.end_request, run, **END)\n",
        "            raise asyncio.CancelledError\n",
    ),
    Mutation(
        *("OperatorRequest", "refused", "a refusal is recorded once more"),
        "                raise  # a refusal, which is recorded as the answer\n",
        "                pass\n",
    ),
    Mutation(
        *("OperatorRequest", "answered", "a local activity in place of a normal one"),
        "workflow.execute_activity_method(OperatorActivities.operate, args=[raw, run], **OPERATE)",
        "workflow.execute_local_activity_method(\n"
        "                OperatorActivities.operate, args=[raw, run], start_to_close_timeout=timedelta(seconds=40))",
    ),
    Mutation(
        *("ReconcileInventory", "looks", "the places are listed twice"),
        "        at_once = asyncio.Semaphore(PLACES_AT_ONCE)\n",
        "        places = await workflow.execute_activity_method(PlaceActivities.list_places, **LIST)\n"
        "        at_once = asyncio.Semaphore(PLACES_AT_ONCE)\n",
    ),
    Mutation(
        *("ReconcileInventory", "place-away", "one place is looked at after the other"),
        "PLACES_AT_ONCE = 20",
        "PLACES_AT_ONCE = 1",
    ),
    Mutation(
        *("LintPreset", "plans", "the plan comes before the candidates are known"),
        "            found = await workflow.execute_activity_method(CandidateActivities.find_candidates,",
        '            await workflow.execute_activity("plan_claim", None, **plan_on("prebuilds-provisioner"))\n'
        "            found = await workflow.execute_activity_method(CandidateActivities.find_candidates,",
    ),
    Mutation(
        *("LintPreset", "host-away", "a host that is away is tried again"),
        "                failure = error  # another prebuild may be on a host that has a worker\n",
        "                await self._plan(prebuild)\n",
    ),
    # --- Drills ---
    Mutation(
        *("DrillTemplate", "succeeds", "what was claimed is not released"),
        "        not_released = await self._release(begun)\n",
        "        not_released = None\n",
    ),
    Mutation(
        *("DrillTemplate", "succeeds", "the workspace is not tried out"),
        "            await self._try_out(begun, queue)\n",
        "            assert queue\n",
    ),
    Mutation(
        *("DrillTemplate", "succeeds", "the deletion is not waited for"),
        "            ended = await self._watch(build_id, max(begun.timeout_seconds, RELEASE_TIMEOUT_S))\n",
        "            return None\n",
    ),
    Mutation(
        *("DrillTemplate", "build-fails", "a workspace that was not handed over is tried out"),
        "        if ended.status is not BuildStatus.SUCCEEDED:\n",
        "        if ended.status is None:\n",
    ),
    Mutation(
        *("DrillTemplate", "check-fails", "a failed check ends the drill at once"),
        "            await self._try_out(begun, queue)\n        except _Stopped as stopped:\n",
        "            await self._try_out(begun, queue)\n        except _Stopped as stopped:\n"
        "            if self._stage == 'check':\n                raise InvalidInput('no') from stopped\n",
    ),
    Mutation(
        *("DrillTemplate", "canceled", "a cancelled drill leaves its workspace"),
        "        except (FailureError, asyncio.CancelledError) as error:\n            return _stopped_by(error)\n",
        "        except ApplicationError as error:\n            return _stopped_by(error)\n",
    ),
    Mutation(
        *("DrillTemplate", "not-spared", "a late attempt's workspace is not looked for"),
        "            stopped = await self._try(begun, begun.preset_id)\n",
        "            stopped = await self._try(begun, begun.preset_id)\n"
        "            if stopped is not None and stopped.skipped:\n"
        "                raise InvalidInput('no')\n",
    ),
]

UNNOTICED = [
    Mutation(
        *("PrebuildsOrchestrator", "stopped", "a timer's length"),
        "await workflow.sleep(after_s,",
        "await workflow.sleep(after_s * 2,",
    ),
    Mutation(
        *("ReconcilePreset", "creates", "an argument"),
        "input.preset_id, input.pending_max, bounds=STEP",
        "input.preset_id, bounds=STEP",
    ),
    Mutation(
        *("WorkspaceBuild", "succeeds", "a timeout"),
        "HEARTBEAT_TIMEOUT = timedelta(seconds=2)",
        "HEARTBEAT_TIMEOUT = None",
    ),
]
"""What replay cannot see: it compares the kinds, names and order of commands, not what they carry."""
