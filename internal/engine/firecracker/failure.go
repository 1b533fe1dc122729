package firecracker

import (
	"regexp"
	"strings"
	"sync"

	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
)

// logLine is a line of Firecracker's log with --show-level: time, [id:thread:level], message.
var logLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\S+ \[[^\]]*:([A-Z]+)\] (.*)$`) })

// wrappings stand before what matters in an error of a configuration from a file.
var wrappings = []string{
	"RunWithApiError error: ", "Failed to build MicroVM from Json: ", "Configuration for VMM from one single json failed: ",
	"Could not Start MicroVM from one single json: ",
}

// complaints returns the errors in what Firecracker said, fit to be shown. It says most of them twice: as a sentence in its
// log, and in the words of its source on stderr, which are taken only when there is no sentence. Signal 13 is a connection that was
// closed before it was refused.
func complaints(output []byte) string {
	var logged, other []string
	for line := range strings.Lines(string(output)) {
		line = strings.TrimRight(line, "\r\n")
		m := logLine().FindStringSubmatch(line)
		switch {
		case m == nil:
			other = append(other, line)
		case m[1] == "ERROR" && !strings.HasPrefix(m[2], "Firecracker exiting") && !strings.HasPrefix(m[2], "Received signal 13,"):
			message := m[2]
			for _, w := range wrappings {
				message = strings.TrimPrefix(message, w)
			}
			logged = append(logged, message)
		}
	}
	if len(logged) == 0 {
		logged = other
	}
	return vmmlog.LastLines([]byte(strings.Join(logged, "\n")), 4)
}

// meaningOf says what an exit code of Firecracker tells: FcExitCode in its src/vmm/src/lib.rs. Empty for what it does not.
func meaningOf(code int) string {
	switch code {
	case 148:
		return "its seccomp filter caught a forbidden system call"
	case 149:
		return "it was ended by SIGBUS: the host may be out of memory or disk"
	case 150:
		return "it was ended by SIGSEGV"
	case 151:
		return "it was ended by SIGXFSZ: a file became larger than the limit of this user"
	case 152:
		return "it takes the configuration for bad"
	case 153:
		return "it does not know an option of its command line"
	case 154:
		return "it was ended by SIGXCPU"
	case 155:
		return "it was ended by SIGPIPE"
	case 156:
		return "it was ended by SIGHUP"
	case 157:
		return "it was ended by SIGILL: the host's CPU may lack an instruction"
	}
	return ""
}

// hintFor says what to do about a Firecracker that did not start, from what it said.
func hintFor(said string) string {
	for _, known := range []struct{ part, hint string }{
		{"confine the VMM", "agentkernel doctor says how VMMs are confined here; vmm.log in the sandbox's directory has all that was said"},
		{"Operation not permitted", "the VMM's confinement needs rights that are not there: " + rightsHint},
		{"KVM", "agentkernel doctor checks /dev/kvm and says what to change"},
		{"Kernel Loader", "the kernel image is damaged: agentkernel kernel list shows it, agentkernel kernel build makes a new one"},
		{"annot allocate memory", "ask for less memory, or stop other sandboxes"},
		{"ermission denied", "check who owns the file that is named"},
	} {
		if strings.Contains(said, known.part) {
			return known.hint
		}
	}
	return "vmm.log in the sandbox's directory has all that Firecracker said"
}
