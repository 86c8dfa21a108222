// A claim, waiting until it is ready, showing, listing and releasing it, from TypeScript with @temporalio/client.
// Needs TEMPORAL_ADDRESS, as `prebuilds dev` prints it, and the pools of examples/prebuilds.yaml.
import { randomUUID } from 'node:crypto';
import { ApplicationFailure, Client, Connection, WorkflowFailedError } from '@temporalio/client';

const connection = await Connection.connect({ address: process.env.TEMPORAL_ADDRESS });
const client = new Client({ connection });

const operate = (request: object) =>
  client.workflow.execute('OperatorRequest', {
    workflowId: `operator-request/${randomUUID()}`,
    taskQueue: 'prebuilds',
    args: [request],
  });

try {
  // Repeating a claim under its id returns the same workspace, so a claim whose answer was lost can be repeated.
  const claimId = 'order-ts-1';
  const claimed = await client.workflow.execute('ClaimWorkspace', {
    workflowId: `claim-workspace/${claimId}`,
    taskQueue: 'prebuilds-claims',
    workflowIdConflictPolicy: 'USE_EXISTING',
    args: [{ preset: 'acme/python/small', owner: 'carol', name: 'carol-ts', on_empty: 'create' }],
  });
  console.log(`${claimed.owner}/${claimed.name} is ${claimed.source}`);

  // The build's workflow may not have been started yet. This starts it, or attaches to it if it runs.
  const build = await client.workflow.execute('WorkspaceBuild', {
    workflowId: `workspace-build/${claimed.build_id}`,
    taskQueue: 'prebuilds',
    workflowIdConflictPolicy: 'USE_EXISTING',
    args: [{ build_id: claimed.build_id }],
  });
  if (build.status !== 'succeeded') throw new Error(`build ${claimed.build_id} has ${build.status}: ${build.error}`);
  console.log(`ready at ${build.address}`);

  const shown = await operate({ action: 'show_workspace', workspace: 'carol/carol-ts' });
  console.log(`${shown.status}, version ${shown.version} of ${shown.organization}/${shown.template}`);

  let after: string | null = null;
  do {
    const page: any = await operate({ action: 'list_workspaces', owner: 'carol', after });
    for (const row of page.workspaces) console.log(`${row.owner}/${row.name} ${row.status}`);
    after = page.next;
  } while (after !== null);

  const released = await operate({ action: 'release', workspace: 'carol/carol-ts', by: 'carol' });
  console.log(`its deletion is build ${released.build_id}`);
} catch (error) {
  // The type says what happened (docs/reference.md, "Errors"): NameTaken, NoClaimablePrebuiltWorkspaces, ...
  if (!(error instanceof WorkflowFailedError) || !(error.cause instanceof ApplicationFailure)) throw error;
  console.error(`${error.cause.type}: ${error.cause.message}`);
  process.exitCode = 1;
} finally {
  await connection.close();
}
