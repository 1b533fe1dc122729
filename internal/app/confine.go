package app

import (
	"io"

	"github.com/agentkernel/agentkernel/internal/engine/confine"
)

// IsConfinement reports whether this process was started by an engine, to become a VMM in a confinement.
func IsConfinement(args []string) bool { return len(args) > 0 && args[0] == confine.Command }

// Confine does so. It returns an exit code only when it fails.
func Confine(args []string, stdout, stderr io.Writer) int {
	return confine.Main(args[1:], stdout, stderr)
}
