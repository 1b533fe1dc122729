package vmmlog

import "strings"

// MaxShown is how much of a line is shown, in bytes: its end, as what was wrong comes last in what a VMM says.
const MaxShown = 300

// LastLines returns the last lines of output in one line, fit to be shown: at most max lines, none longer than MaxShown,
// only printable ASCII.
func LastLines(output []byte, max int) string {
	var lines []string
	for line := range strings.SplitSeq(string(output), "\n") {
		line = strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return -1
			}
			return r
		}, line)
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line[len(line)-min(len(line), MaxShown):])
		}
	}
	return strings.Join(lines[len(lines)-min(len(lines), max):], "; ")
}

// KernelPanic returns the line in which a Linux kernel says that it panicked, or "". Whoever is root in the guest can
// print that line too, so it explains an end and decides nothing.
func KernelPanic(console []byte) string {
	const mark = "Kernel panic - not syncing"
	i := strings.LastIndex(string(console), mark)
	if i < 0 {
		return ""
	}
	line, _, _ := strings.Cut(string(console[i:]), "\n")
	return LastLines([]byte(line), 1)
}
