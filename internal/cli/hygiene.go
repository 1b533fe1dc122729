package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// hygiene shows what sandboxes have for their own, as found at their last start. When something failed, the exit code is 1.
func (e *env) hygiene(ctx context.Context, names []string) error {
	c, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	type named struct {
		Name string `json:"name"`
		*client.Hygiene
	}
	list := make([]named, 0, len(names))
	failed := false
	for _, name := range names {
		sb, err := c.Get(ctx, name)
		if err != nil {
			return err
		}
		if sb.Hygiene == nil {
			return sandbox.Errorf(sandbox.Conflict, "agentkernel restart "+name+" has it looked at", "nothing is known of what sandbox %q shares with others: it was not started, or a daemon died while it was", name)
		}
		for _, item := range sb.Hygiene.Items {
			failed = failed || item.Result == apiv1.HygieneFail
		}
		list = append(list, named{name, sb.Hygiene})
	}
	if e.json {
		if err := e.printJSON(list); err != nil {
			return err
		}
	} else {
		for i, h := range list {
			if i > 0 {
				fmt.Fprintln(e.out)
			}
			if err := e.showHygiene(h.Name, h.Hygiene); err != nil {
				return err
			}
		}
	}
	if failed {
		return exitError(1)
	}
	return nil
}

func (e *env) showHygiene(name string, h *client.Hygiene) error {
	fmt.Fprintf(e.out, "%s, from %s at %s\n", name, h.From, h.At.Local().Format(time.RFC3339))
	w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', 0)
	for _, item := range h.Items {
		reason := ""
		if item.Reason != nil {
			reason = *item.Reason
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", item.Result, item.Name, reason)
	}
	return w.Flush()
}
