package fcapi

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// Every endpoint and property of every specification is one that the client has, or is listed as left out; what the client
// sends is valid; all of what is answered is read.
func TestContract(t *testing.T) {
	for _, s := range loadSpecs(t) {
		t.Run(s.version, func(t *testing.T) {
			have := map[string]bool{}
			for _, op := range operations() {
				have[op.endpoint] = true
				endpoint := s.endpoints[op.endpoint]
				if endpoint == nil {
					checkRefused(t, s, op)
					continue
				}
				t.Run(op.endpoint, func(t *testing.T) { checkOperation(t, s, op, endpoint) })
			}
			for name := range s.endpoints {
				if !have[name] {
					t.Errorf("the client has no method for %s", name)
				}
			}
		})
	}
}

// checkRefused: the client does not send what this version has no endpoint for.
func checkRefused(t *testing.T, s spec, op operation) {
	t.Helper()
	server := newFake(t, s.version)
	if _, err := op.call(t.Context(), server.client(t), op.body); !isUnsupported(err) {
		t.Errorf("%s in version %s: %v, want that it is not known", op.endpoint, s.version, err)
	}
	if got := server.requests(); len(got) != 0 {
		t.Errorf("%s was sent to version %s", op.endpoint, s.version)
	}
}

func checkOperation(t *testing.T, s spec, op operation, endpoint *openapi3.Operation) {
	server := newFake(t, s.version)
	client := server.client(t)
	body, answer := bodySchema(endpoint), answerSchema(endpoint)
	if (body == nil) != (op.body == nil) {
		t.Fatalf("the specification has a body: %v; the client sends one: %v", body != nil, op.body != nil)
	}
	var sent any
	if body != nil {
		sent = s.sample(t, body)
		decodeStrictly(t, sent, op.body)
	}
	var want any
	if answer != nil {
		want = s.sample(t, answer)
		server.answer = marshal(t, want)
	}
	got, err := op.call(t.Context(), client, op.body)
	if err != nil {
		t.Fatal(err)
	}
	requests := server.requests()
	if len(requests) != 1 {
		t.Fatalf("%d requests", len(requests))
	}
	method, path, _ := strings.Cut(op.endpoint, " ")
	if i := strings.IndexByte(path, '{'); i >= 0 {
		path = path[:i] + "text" // as in the sample
	}
	if r := requests[0]; r.method != method || r.path != path {
		t.Errorf("the request is %s %s, want %s %s", r.method, r.path, method, path)
	}
	if body != nil {
		var value any
		if err := json.Unmarshal(requests[0].body, &value); err != nil {
			t.Fatal(err)
		}
		if err := body.Value.VisitJSON(value); err != nil && !s.vague(body) {
			t.Errorf("the body is not valid: %v", err)
		}
		if !reflect.DeepEqual(value, sent) {
			t.Errorf("the body is %s, want %s", requests[0].body, marshal(t, sent))
		}
	}
	if answer != nil {
		target := reflect.New(reflect.TypeOf(got))
		decodeStrictly(t, want, target.Interface())
		if !reflect.DeepEqual(target.Elem().Interface(), got) {
			t.Errorf("the answer was read as %+v, want %+v", got, target.Elem())
		}
	}
}

// decodeStrictly fails when into lacks a field of value, or a value does not fit.
func decodeStrictly(t *testing.T, value, into any) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(marshal(t, value)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		t.Fatalf("%T: %v", into, err)
	}
}

func marshal(t *testing.T, value any) []byte {
	t.Helper()
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What a field's tag says is true: it is in the specification of that version and in none before; and there is no field that
// no specification has.
func TestFieldVersions(t *testing.T) {
	specs := loadSpecs(t)
	for _, op := range operations() {
		if op.body != nil {
			checkFields(t, specs, op.endpoint, reflect.TypeOf(op.body).Elem(), bodySchema)
			continue
		}
		if slices.ContainsFunc(specs, func(s spec) bool {
			return s.endpoints[op.endpoint] != nil && answerSchema(s.endpoints[op.endpoint]) != nil
		}) {
			call := reflect.TypeOf(answerOf(t, op))
			checkFields(t, specs, op.endpoint, call, answerSchema)
		}
	}
}

// answerOf is an answer of the type that the operation returns.
func answerOf(t *testing.T, op operation) any {
	t.Helper()
	server := newFake(t, "99.0.0")
	server.answer = []byte("{}")
	got, err := op.call(t.Context(), server.client(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func checkFields(t *testing.T, specs []spec, endpoint string, typ reflect.Type, schema func(*openapi3.Operation) *openapi3.SchemaRef) {
	t.Helper()
	walk(typ, nil, "", func(path []string, tag string) {
		first := ""
		for _, s := range specs {
			e := s.endpoints[endpoint]
			if e != nil && first == "" && hasProperty(schema(e), path) {
				first = s.version
			}
		}
		// A field is at least as new as its endpoint.
		endpointSince := ""
		for _, s := range specs {
			if s.endpoints[endpoint] != nil {
				endpointSince = s.version
				break
			}
		}
		want := tag
		if want == "" {
			want = endpointSince
		}
		if first != want && !(tag != "" && since(tag).Compare(since(endpointSince)) < 0) {
			t.Errorf("%s: the field %s is in the specifications since %q, and the client says %q", endpoint, strings.Join(path, "."), first, want)
		}
	})
}

// walk calls f for each field with a JSON name, with the newest tag on its path.
func walk(typ reflect.Type, path []string, tag string, f func(path []string, tag string)) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return
	}
	for i := range typ.NumField() {
		field := typ.Field(i)
		newest := tag
		if own := field.Tag.Get("since"); own != "" && (tag == "" || since(own).Compare(since(tag)) > 0) {
			newest = own
		}
		here := append(slices.Clone(path), jsonName(field))
		f(here, newest)
		walk(field.Type, here, newest, f)
	}
}

// hasProperty reports whether a schema has the property at path. An object of which it says nothing may have any.
func hasProperty(ref *openapi3.SchemaRef, path []string) bool {
	for i, name := range path {
		if ref == nil {
			return false
		}
		for ref.Value.Items != nil {
			ref = ref.Value.Items
		}
		if i > 0 && ref.Value.Type.Is("object") && len(ref.Value.Properties) == 0 {
			return true
		}
		ref = ref.Value.Properties[name]
	}
	return ref != nil
}

// A field that a version does not know is not sent to it.
func TestFieldsAreGated(t *testing.T) {
	for _, op := range operations() {
		if op.body == nil {
			continue
		}
		walk(reflect.TypeOf(op.body).Elem(), nil, "", func(path []string, tag string) {
			if tag == "" {
				return
			}
			body := reflect.New(reflect.TypeOf(op.body).Elem())
			set(t, body.Elem(), path)
			older := since(tag)
			older.Patch--
			server := newFake(t, older.String())
			_, err := op.call(t.Context(), server.client(t), body.Interface())
			if !isUnsupported(err) || len(server.requests()) != 0 {
				t.Errorf("%s with %s is sent to version %s: %v", op.endpoint, strings.Join(path, "."), older, err)
			}
		})
	}
}

// set makes the field at path not zero.
func set(t *testing.T, v reflect.Value, path []string) {
	t.Helper()
	for {
		switch v.Kind() {
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			v = v.Elem()
			continue
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			v = v.Index(0)
			continue
		case reflect.Bool:
			v.SetBool(true)
			return
		case reflect.Int, reflect.Int32, reflect.Int64:
			v.SetInt(1)
			return
		case reflect.String:
			v.SetString("x")
			return
		case reflect.Struct:
			if len(path) == 0 {
				return
			}
			field, ok := v.Type().FieldByNameFunc(func(name string) bool {
				f, _ := v.Type().FieldByName(name)
				return jsonName(f) == path[0]
			})
			if !ok {
				t.Fatalf("%v has no field %s", v.Type(), path[0])
			}
			v, path = v.FieldByIndex(field.Index), path[1:]
			continue
		}
		t.Fatalf("a field of the kind %v", v.Kind())
	}
}
