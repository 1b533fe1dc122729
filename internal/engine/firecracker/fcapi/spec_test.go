package fcapi

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/oasdiff/yaml"
)

// specDir has Firecracker's specifications, one a version: firecracker-v<version>.yaml. They are Firecracker's and not kept
// in this repository, but beside it.
const specDir = "../../../../../shared/firecracker/api"

// leftOut are the properties that the client does not have on purpose: doc.go says why.
var leftOut = map[string]bool{
	"Vsock.vsock_id": true, "SnapshotLoadParams.mem_file_path": true, "SnapshotLoadParams.enable_diff_snapshots": true,
}

// vague are the definitions that a specification describes wrongly, by name, with its versions: as a string, or by objects
// where Firecracker's own documentation of CPU templates has the same lists in all versions. What is in them is not checked.
var vague = map[string][]string{"CpuConfig": {"1.10.1", "1.12.1"}}

func (s spec) vague(ref *openapi3.SchemaRef) bool {
	return slices.Contains(vague[definition(ref)], s.version)
}

// spec is one version of the specification.
type spec struct {
	version   string
	endpoints map[string]*openapi3.Operation // by method and path
}

// loadSpecs returns all versions, the oldest first, and skips the test where there is none.
func loadSpecs(t *testing.T) []spec {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(specDir, "firecracker-v*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("Firecracker's API specifications are not in " + specDir + ": what the client sends and reads is not checked against them")
	}
	var specs []spec
	for _, file := range files {
		specs = append(specs, loadSpec(t, file))
	}
	slices.SortFunc(specs, func(a, b spec) int { return since(a.version).Compare(since(b.version)) })
	return specs
}

func loadSpec(t *testing.T, file string) spec {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var old openapi2.T
	if _, err := yaml.Unmarshal(text, &old, yaml.DecodeOpts{}); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	doc, err := openapi2conv.ToV3(&old)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	s := spec{version: doc.Info.Version, endpoints: map[string]*openapi3.Operation{}}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			s.endpoints[method+" "+path] = op
		}
	}
	if len(s.endpoints) < 25 {
		t.Fatalf("%s has only %d endpoints", file, len(s.endpoints))
	}
	return s
}

// bodySchema is nil when the endpoint takes no body.
func bodySchema(op *openapi3.Operation) *openapi3.SchemaRef {
	if op.RequestBody == nil {
		return nil
	}
	return op.RequestBody.Value.Content.Get("application/json").Schema
}

// answerSchema is nil when the endpoint's answer has no content.
func answerSchema(op *openapi3.Operation) *openapi3.SchemaRef {
	resp := op.Responses.Status(200)
	if resp == nil || resp.Value.Content.Get("application/json") == nil {
		return nil
	}
	return resp.Value.Content.Get("application/json").Schema
}

// definition is the name of a schema in the specification.
func definition(ref *openapi3.SchemaRef) string {
	return ref.Ref[strings.LastIndexByte(ref.Ref, '/')+1:]
}

// sample makes a value with every property that is not left out. No value in it is a zero value.
func (s spec) sample(t *testing.T, ref *openapi3.SchemaRef) any {
	t.Helper()
	if s.vague(ref) {
		return map[string]any{}
	}
	schema := ref.Value
	for _, choice := range schema.Enum {
		if text, ok := choice.(string); ok {
			return text
		}
	}
	switch {
	case schema.Type.Is("object"), len(schema.Properties) > 0:
		if len(schema.Properties) == 0 {
			return map[string]any{"key": "value"}
		}
		object := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
			if !leftOut[definition(ref)+"."+name] {
				object[name] = s.sample(t, schema.Properties[name])
			}
		}
		return object
	case schema.Type.Is("array"):
		return []any{s.sample(t, schema.Items)}
	case schema.Type.Is("integer"):
		if schema.Min != nil && *schema.Min > 0 {
			return *schema.Min
		}
		return 7.0
	case schema.Type.Is("boolean"):
		return true
	case schema.Type.Is("string"):
		return "text"
	}
	t.Fatalf("the specification has a schema of the type %v", schema.Type)
	return nil
}
