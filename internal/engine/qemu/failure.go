package qemu

import (
	"bytes"
	"strings"
)

// hintFor says what to do about a QEMU that did not start, from what it said.
func hintFor(said string) string {
	for _, known := range []struct{ part, hint string }{
		{"Cannot allocate memory", "ask for less memory, or stop other sandboxes"},
		{"could not load kernel", "the kernel image is damaged: agentkernel kernel list shows it, agentkernel kernel build makes a new one"},
		{"rror loading", "the kernel image is damaged: agentkernel kernel list shows it, agentkernel kernel build makes a new one"},
		{"lock", "another process uses this disk; is the sandbox running under another AGENTKERNEL_HOME?"},
		{"Permission denied", "check who owns the file that is named"},
	} {
		if strings.Contains(said, known.part) {
			return known.hint
		}
	}
	return seeLog
}

const seeLog = "vmm.log in the sandbox's directory has all that QEMU said"

// complaints returns what QEMU said, without what it says in passing.
func complaints(output []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(output) {
		if !bytes.Contains(line, []byte(": info: ")) {
			kept = append(kept, line...)
		}
	}
	return kept
}
