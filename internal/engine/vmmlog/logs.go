package vmmlog

import "path/filepath"

// Bounds of the logs, in bytes.
const (
	maxConsole = 1 << 20
	maxOutput  = 128 << 10
)

// Logs are the two logs of a microVM: what the guest prints on its console, and what the VMM says itself.
type Logs struct{ Console, Output *Log }

// OpenLogs opens console.log and vmm.log in dir. Fresh ones begin empty.
func OpenLogs(dir string, fresh bool) (Logs, error) {
	console, err := Open(filepath.Join(dir, "console.log"), maxConsole, fresh)
	if err != nil {
		return Logs{}, err
	}
	output, err := Open(filepath.Join(dir, "vmm.log"), maxOutput, fresh)
	if err != nil {
		console.Close()
		return Logs{}, err
	}
	return Logs{Console: console, Output: output}, nil
}

// Close closes both.
func (l Logs) Close() {
	l.Console.Close()
	l.Output.Close()
}
