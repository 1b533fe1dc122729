package firecracker

import (
	"testing"

	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
)

func TestAdvisories(t *testing.T) {
	for text, want := range map[string]string{
		"v1.10.1": "CVE-2026-1386 ", "v1.12.9": "CVE-2026-1386 ", "v1.13.0": "CVE-2026-1386 CVE-2026-5747 ", "v1.13.1": "CVE-2026-1386 CVE-2026-5747 ",
		"v1.13.2": "CVE-2026-5747 ", "v1.14.0": "CVE-2026-1386 CVE-2026-5747 ", "v1.14.1": "CVE-2026-5747 ", "v1.14.3": "CVE-2026-5747 ",
		"v1.14.4": "", "v1.15.0": "CVE-2026-5747 ", "v1.15.1": "", "v1.16.1": "",
	} {
		v, err := fcapi.ParseVersion(text)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, a := range Advisories(v) {
			got += a.ID + " "
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
