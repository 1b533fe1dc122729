package hostvirt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
)

// CPU tells this host's CPU from those that a guest who has seen this one could not go on with: its vendor, family, model and
// stepping, and a hash of what it can do, from /proc/cpuinfo.
func CPU() (string, error) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("look at the CPU: %w", err)
	}
	return describeCPU(info)
}

// cpuNames are the fields of /proc/cpuinfo that name a CPU, on x86 and on arm64, and cpuFeatures those that list what it can do.
var (
	cpuNames    = []string{"vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision"}
	cpuFeatures = []string{"flags", "Features"}
)

func describeCPU(info []byte) (string, error) {
	first, _, _ := bytes.Cut(info, []byte("\n\n")) // one block a CPU
	var names []string
	features := ""
	for line := range bytes.Lines(first) {
		field, value, _ := strings.Cut(string(line), ":")
		field, value = strings.TrimSpace(field), strings.TrimSpace(value)
		if slices.Contains(cpuNames, field) {
			names = append(names, value)
		}
		if slices.Contains(cpuFeatures, field) {
			features = value
		}
	}
	if len(names) == 0 || features == "" {
		return "", fmt.Errorf("look at the CPU: /proc/cpuinfo does not say what it is")
	}
	list := strings.Fields(features)
	slices.Sort(list)
	sum := sha256.Sum256([]byte(strings.Join(list, " ")))
	return strings.Join(names, " ") + ", features " + hex.EncodeToString(sum[:8]), nil
}
