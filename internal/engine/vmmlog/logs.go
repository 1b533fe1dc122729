package vmmlog

import (
	"fmt"
	"os"
)

// Bounds of the logs, in bytes.
const (
	maxConsole = 1 << 20
	maxOutput  = 128 << 10
)

// Logs are the two logs of a microVM: what the guest prints on its console, and what the VMM says itself.
type Logs struct {
	Console, Output *Log
	dir             *os.Root
}

// OpenLogs opens console.log and vmm.log in dir, which may be renamed meanwhile. Fresh ones begin empty.
func OpenLogs(dir string, fresh bool) (Logs, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Logs{}, fmt.Errorf("open the directory of the logs: %w", err)
	}
	console, err := Open(root, "console.log", maxConsole, fresh)
	if err != nil {
		root.Close()
		return Logs{}, err
	}
	output, err := Open(root, "vmm.log", maxOutput, fresh)
	if err != nil {
		console.Close()
		root.Close()
		return Logs{}, err
	}
	return Logs{Console: console, Output: output, dir: root}, nil
}

// Close closes both.
func (l Logs) Close() {
	l.Console.Close()
	l.Output.Close()
	l.dir.Close()
}
