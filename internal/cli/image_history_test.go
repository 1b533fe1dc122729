package cli

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentkernel/agentkernel/internal/image"
)

func TestHistory(t *testing.T) {
	step := func(by string, empty bool) image.Step { return image.Step{By: by, Empty: empty} }
	layers := []image.OriginLayer{{DiffID: "l1", Size: 1}, {DiffID: "l2", Size: 2}}
	told := imageStep{Step: step("FROM", false), Layer: "l1", Size: 1}
	for name, tc := range map[string]struct {
		origin *image.Origin
		want   []imageStep
	}{
		"a recipe":      {nil, []imageStep{{Step: step("recipe", false), Size: 9}}},
		"nothing told":  {&image.Origin{Layers: layers}, []imageStep{{Step: step("recipe", false), Size: 9}}},
		"all told":      {&image.Origin{Layers: layers, History: []image.Step{step("FROM", false), step("ENV", true), step("RUN", false)}}, []imageStep{{Step: step("RUN", false), Layer: "l2", Size: 2}, {Step: step("ENV", true)}, told}},
		"too few told":  {&image.Origin{Layers: layers, History: []image.Step{step("FROM", false)}}, []imageStep{{Step: image.Step{Comment: "not told"}, Layer: "l2", Size: 2}, told}},
		"too many told": {&image.Origin{Layers: layers[:1], History: []image.Step{step("FROM", false), step("RUN", false)}}, []imageStep{{Step: step("RUN", false)}, told}},
	} {
		if d := cmp.Diff(tc.want, history(image.Manifest{Source: "recipe", Size: 9, Origin: tc.origin})); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestShort(t *testing.T) {
	for in, want := range map[string]string{
		"RUN \t a\n  && b":      "RUN a && b",
		"\x1b]0;x\x07\u202eRUN": "]0;x RUN",
		"\xff":                  "\ufffd",
	} {
		if got := short(in, true); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
