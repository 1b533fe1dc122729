package kernel

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// DefaultVersion is the release that is built when none is asked for.
const DefaultVersion = "6.1.70"

// localVersion is CONFIG_LOCALVERSION of the fragments; it ends `uname -r`.
const localVersion = "-agentkernel"

// HZ is the fragments' CONFIG_HZ, the kernel's ticks a second. A VMM that knows
// the rate of the guest's TSC passes lpj=<rate in Hz / HZ>, and so spares every
// further vCPU a calibration of its own.
const HZ = 100

// A release's number, and nothing that could leave a URL path or a file name.
var versionForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([0-9]{1,2}\.[0-9]{1,3})\.[0-9]{1,4}$`) })

// supportedSeries lists the series that have fragments and patches. Both are
// maintained for years by the stable team.
func supportedSeries() []string { return []string{"6.1", "6.12"} }

// seriesOf gives the series ("6.1") of a release ("6.1.70"), or an error that
// names the valid ones.
func seriesOf(version string) (string, error) {
	m := versionForm().FindStringSubmatch(version)
	if m != nil {
		for _, s := range supportedSeries() {
			if m[1] == s {
				return s, nil
			}
		}
	}
	return "", fmt.Errorf("kernel version %q is not supported: choose a release of %s, such as %s",
		version, strings.Join(withX(supportedSeries()), " or "), DefaultVersion)
}

func withX(series []string) []string {
	out := make([]string, len(series))
	for i, s := range series {
		out[i] = s + ".x"
	}
	return out
}

var makefileField = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^(VERSION|PATCHLEVEL|SUBLEVEL)[ \t]*=[ \t]*([0-9]{1,4})[ \t]*$`)
})

// versionFromMakefile reads the release's number from the top of a kernel
// tree's Makefile.
func versionFromMakefile(makefile []byte) (string, error) {
	if len(makefile) > 4096 {
		makefile = makefile[:4096] // the fields are its first lines
	}
	field := map[string]string{}
	for _, m := range makefileField().FindAllSubmatch(makefile, -1) {
		if _, seen := field[string(m[1])]; !seen {
			field[string(m[1])] = string(m[2])
		}
	}
	for _, name := range []string{"VERSION", "PATCHLEVEL", "SUBLEVEL"} {
		if field[name] == "" {
			return "", fmt.Errorf("this is not a kernel source: its Makefile has no %s", name)
		}
	}
	return field["VERSION"] + "." + field["PATCHLEVEL"] + "." + field["SUBLEVEL"], nil
}
