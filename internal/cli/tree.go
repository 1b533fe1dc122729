package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// tree prints sandboxes below those that they were made from. One whose parent is gone stands by itself, and says what that was.
func tree(out io.Writer, list []client.Sandbox) error {
	ids := map[string]bool{}
	for _, sb := range list {
		ids[sb.Id] = true
	}
	children := map[string][]client.Sandbox{}
	for _, sb := range list {
		parent := ""
		if sb.Parent != nil && ids[sb.Parent.SandboxId] {
			parent = sb.Parent.SandboxId
		}
		children[parent] = append(children[parent], sb)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tMADE FROM")
	for _, sb := range children[""] {
		branch(w, children, sb, "", "", ids)
	}
	return w.Flush()
}

// branch prints a sandbox after lead, and its children after indent.
func branch(w io.Writer, children map[string][]client.Sandbox, sb client.Sandbox, lead, indent string, ids map[string]bool) {
	from := "-"
	if p := sb.Parent; p != nil {
		from = "fork of " + p.Sandbox
		if p.Snapshot != nil {
			from = fmt.Sprintf("snapshot %s of %s", *p.Snapshot, p.Sandbox)
		}
		if !ids[p.SandboxId] {
			from += ", which is gone"
		}
	}
	fmt.Fprintf(w, "%s%s\t%s\t%s\n", lead, sb.Name, sb.State, from)
	own := children[sb.Id]
	for i, child := range own {
		if i == len(own)-1 {
			branch(w, children, child, indent+"└─ ", indent+"   ", ids)
		} else {
			branch(w, children, child, indent+"├─ ", indent+"│  ", ids)
		}
	}
}
