package kernel

import (
	"strings"
	"testing"
)

func TestSeriesOf(t *testing.T) {
	for version, want := range map[string]string{
		"6.1.70": "6.1", "6.1.0": "6.1", "6.12.117": "6.12",
		"6.1": "", "6.2.1": "", "6.11.3": "", "5.10.1": "", "6.1.70-rc1": "", "6.1.70/../x": "", "": "", "6.1.70\n": "", "06.1.70": "",
	} {
		got, err := seriesOf(version)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("seriesOf(%q) = %q, %v; want %q", version, got, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), "6.1.x or 6.12.x") {
			t.Errorf("error %q names not the valid versions", err)
		}
	}
}

func TestVersionFromMakefile(t *testing.T) {
	const head = "# SPDX\nVERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 192\nEXTRAVERSION =\n"
	if got, err := versionFromMakefile([]byte(head + strings.Repeat("x\n", 9000) + "VERSION = 9\n")); err != nil || got != "6.1.192" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"", "VERSION = 6\nPATCHLEVEL = 1\n", "VERSION = six\nPATCHLEVEL = 1\nSUBLEVEL = 2\n"} {
		if got, err := versionFromMakefile([]byte(bad)); err == nil {
			t.Errorf("%q gave %q", bad, got)
		}
	}
}

func TestDefaultVersionIsSupported(t *testing.T) {
	if _, err := seriesOf(DefaultVersion); err != nil {
		t.Fatal(err)
	}
}
