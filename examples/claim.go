// A claim, waiting until it is ready, showing, listing and releasing it, from Go with go.temporal.io/sdk.
// Needs TEMPORAL_ADDRESS, as `prebuilds dev` prints it, and the pools of examples/prebuilds.yaml.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
)

type claimed struct {
	Owner, Name, Source string
	BuildID             string `json:"build_id"`
}

type build struct {
	Status  string
	Error   *string
	Address *string
}

type row struct {
	Owner, Name, Status string
}

type page struct {
	Workspaces []row
	Next       *string
}

// execute starts a workflow, or joins the one that runs under this id, and waits for its result.
func execute(ctx context.Context, c client.Client, id, queue, workflow string, input map[string]any, result any) error {
	options := client.StartWorkflowOptions{
		ID:                       id,
		TaskQueue:                queue,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
	}
	run, err := c.ExecuteWorkflow(ctx, options, workflow, input)
	if err != nil {
		return err
	}
	return run.Get(ctx, result)
}

// operate sends one request to the deployment. The empty workflow id lets Temporal's client make a new one.
func operate(ctx context.Context, c client.Client, request map[string]any, result any) error {
	return execute(ctx, c, "", "prebuilds", "OperatorRequest", request, result)
}

func story(ctx context.Context, c client.Client) error {
	// Repeating a claim under its id returns the same workspace, so a claim whose answer was lost can be repeated.
	claim := map[string]any{"preset": "acme/python/small", "owner": "carol", "name": "carol-go", "on_empty": "create"}
	var won claimed
	if err := execute(ctx, c, "claim-workspace/order-go-1", "prebuilds-claims", "ClaimWorkspace", claim, &won); err != nil {
		return err
	}
	fmt.Printf("%s/%s is %s\n", won.Owner, won.Name, won.Source)

	// The build's workflow may not have been started yet. This starts it, or attaches to it if it runs.
	var ended build
	id, input := "workspace-build/"+won.BuildID, map[string]any{"build_id": won.BuildID}
	if err := execute(ctx, c, id, "prebuilds", "WorkspaceBuild", input, &ended); err != nil {
		return err
	}
	if ended.Status != "succeeded" {
		return fmt.Errorf("build %s has %s: %s", won.BuildID, ended.Status, text(ended.Error))
	}
	fmt.Printf("ready at %s\n", text(ended.Address))

	var shown row
	if err := operate(ctx, c, map[string]any{"action": "show_workspace", "workspace": "carol/carol-go"}, &shown); err != nil {
		return err
	}
	fmt.Println(shown.Status)

	for list := map[string]any{"action": "list_workspaces", "owner": "carol"}; ; {
		var found page
		if err := operate(ctx, c, list, &found); err != nil {
			return err
		}
		for _, one := range found.Workspaces {
			fmt.Printf("%s/%s %s\n", one.Owner, one.Name, one.Status)
		}
		if found.Next == nil {
			break
		}
		list["after"] = *found.Next
	}

	var released struct {
		BuildID string `json:"build_id"`
	}
	release := map[string]any{"action": "release", "workspace": "carol/carol-go", "by": "carol"}
	if err := operate(ctx, c, release, &released); err != nil {
		return err
	}
	fmt.Printf("its deletion is build %s\n", released.BuildID)
	return nil
}

func text(value *string) string {
	if value == nil {
		return "none"
	}
	return *value
}

func main() {
	c, err := client.Dial(client.Options{HostPort: os.Getenv("TEMPORAL_ADDRESS")})
	if err != nil {
		log.Fatalln(err)
	}
	defer c.Close()
	err = story(context.Background(), c)
	// The type says what happened (docs/reference.md, "Errors"): NameTaken, NoClaimablePrebuiltWorkspaces, ...
	if failure := new(temporal.ApplicationError); errors.As(err, &failure) {
		log.Fatalf("%s: %s", failure.Type(), failure.Message())
	}
	if err != nil {
		log.Fatalln(err)
	}
}
