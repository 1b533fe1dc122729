// Package report shows what benchmarks have measured: as tables in Markdown, which can take their places in a document, and as a
// chart in SVG.
package report

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/agentkernel/agentkernel/internal/bench"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// maxFile is how large a report may be, in bytes.
const maxFile = 16 << 20

// Read a file that bench --json has printed.
func Read(path string) (bench.Report, error) {
	var r bench.Report
	const hint = "agentkernel bench all --json makes one"
	info, err := os.Stat(path)
	if err != nil {
		return r, sandbox.Errorf(sandbox.NotFound, hint, "read a report: %w", err)
	}
	if info.Size() > maxFile {
		return r, sandbox.Errorf(sandbox.Invalid, hint, "%s has %d bytes: it is no report", path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return r, fmt.Errorf("read a report: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, sandbox.Errorf(sandbox.Invalid, hint, "%s is no report: %w", path, err)
	}
	if r.Format != bench.Format {
		return r, sandbox.Errorf(sandbox.Invalid, hint, "%s has format %d, this version reads %d", path, r.Format, bench.Format)
	}
	return r, nil
}
