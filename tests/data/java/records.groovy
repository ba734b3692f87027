// Writes records with the Java serializers of Apicurio Registry, framed as Confluent's are: a byte 0, then the id in
// four bytes. Argument: the address of a registry, without a path. Prints what records.json has. ../README.md has the command.
import com.google.protobuf.DynamicMessage
import com.google.protobuf.TimestampProto
import com.google.protobuf.ByteString
import com.fasterxml.jackson.databind.ObjectMapper
import io.apicurio.registry.rest.client.RegistryClientFactory
import io.apicurio.registry.serde.Legacy4ByteIdHandler
import io.apicurio.registry.serde.avro.AvroKafkaSerializer
import io.apicurio.registry.serde.jsonschema.JsonSchemaKafkaSerializer
import io.apicurio.registry.serde.protobuf.ProtobufKafkaSerializer
import io.apicurio.registry.serde.protobuf.ProtobufSchemaParser
import java.nio.ByteBuffer
import org.apache.avro.Conversions
import org.apache.avro.LogicalTypes
import org.apache.avro.Schema
import org.apache.avro.generic.GenericData

def settings = [
    'apicurio.registry.url'             : "${args[0]}/apis/registry/v2" as String,
    'apicurio.registry.auto-register'   : 'true',
    'apicurio.registry.id-handler'      : Legacy4ByteIdHandler.name,
    'apicurio.registry.use-id'          : 'contentId',
    'apicurio.registry.headers.enabled' : 'false',
]
def json = new ObjectMapper()
def written = []
def write = { name, serializer, key, data ->
    serializer.configure(settings, key)
    def bytes = serializer.serialize("java-$name", data)
    def id = ByteBuffer.wrap(bytes, 1, 4).getInt()
    def schema = json.readTree(new URL("${args[0]}/apis/ccompat/v7/schemas/ids/$id"))
    written << [
        name: name, kind: schema.path('schemaType').asText('AVRO'), schema: schema.get('schema').asText(),
        data: bytes.encodeBase64().toString()]
    serializer.close()
}

// Avro
def schema = new Schema.Parser().parse('''{"type": "record", "name": "Order", "namespace": "shop", "fields": [
  {"name": "id", "type": "long"},
  {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
  {"name": "rate", "type": {"type": "fixed", "name": "Rate", "size": 6, "logicalType": "decimal", "precision": 9, "scale": 4}},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
  {"name": "until", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}], "default": null},
  {"name": "day", "type": {"type": "int", "logicalType": "date"}},
  {"name": "mark", "type": {"type": "string", "logicalType": "uuid"}},
  {"name": "raw", "type": "bytes"},
  {"name": "note", "type": ["null", "string", "long"]},
  {"name": "other", "type": ["null", "string", "long"]},
  {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "DONE"]}},
  {"name": "tags", "type": {"type": "map", "values": "int"}},
  {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
    {"name": "sku", "type": {"type": "string", "avro.java.string": "String"}},
    {"name": "inner", "type": ["null", "Line"]}]}}},
  {"name": "ratio", "type": "float"},
  {"name": "share", "type": "double"},
  {"name": "paid", "type": "boolean"}]}''')
def at = { name -> schema.getField(name).schema() }
def record = { type, values ->
    def made = new GenericData.Record(type)
    values.each { name, value -> made.put(name, value) }
    made
}
def decimals = new Conversions.DecimalConversion()
def line = at('lines').elementType
def avro = record(schema, [
    id   : 1L << 62,
    price: decimals.toBytes(new BigDecimal('-1234.50'), at('price'), at('price').logicalType),
    rate : decimals.toFixed(new BigDecimal('-0.0625'), at('rate'), at('rate').logicalType),
    at   : 1767323045678L,
    until: 1767323045678901L,
    day  : 20455,
    mark : '0b5e4a1c-6f5d-4b8e-9f57-0d8a2f0e7a11',
    raw  : ByteBuffer.wrap([0xff, 0xfe, 0] as byte[]),
    note : 'h\u00e9\ud83d\ude00',
    other: 7L,
    state: new GenericData.EnumSymbol(at('state'), 'DONE'),
    tags : [a: -1],
    lines: [record(line, [sku: 'x', inner: record(line, [sku: 'y', inner: null])])],
    ratio: 0.5f,
    share: Double.NaN,
    paid : true,
])
write('avro', new AvroKafkaSerializer(), false, avro)
def key = new Schema.Parser().parse('''{"type": "record", "name": "OrderKey", "fields": [
  {"name": "shop", "type": "string"}, {"name": "id", "type": "int"}]}''')
write('avro-key', new AvroKafkaSerializer(), true, record(key, [shop: 'a', id: 1004]))

// Protobuf: the first message of a file, the second one, and a message inside it, which the serializer refuses to
// write if it validates.
def text = new File(getClass().protectionDomain.codeSource.location.toURI()).parentFile.toPath().resolve('records.proto')
def file = new ProtobufSchemaParser().parseSchema(text.toFile().bytes, [:]).fileDescriptor
def message
message = { type, values ->
    def made = DynamicMessage.newBuilder(type)
    values.each { name, value ->
        def field = type.findFieldByName(name)
        if (field.repeated) value.each { made.addRepeatedField(field, it) } else made.setField(field, value)
    }
    made.build()
}
def order = file.findMessageTypeByName('Order')
def inner = order.findNestedTypeByName('Line')
def someLine = message(inner, [amount: 1L << 60, raw: ByteString.copyFrom([0xff, 0xfe] as byte[])])
write('protobuf-first', new ProtobufKafkaSerializer(), false, message(file.findMessageTypeByName('Customer'), [name: 'ada']))
write('protobuf-second', new ProtobufKafkaSerializer(), false, message(order, [
    customer_name: 'ada', lines: [someLine],
    state: order.findEnumTypeByName('State').findValueByName('DONE'),
    tags : [message(order.findNestedTypeByName('TagsEntry'), [key: 'a', value: 7])],
    at   : message(TimestampProto.descriptor.findMessageTypeByName('Timestamp'), [seconds: 1767323045L, nanos: 678000000])]))
settings['apicurio.registry.serde.validation-enabled'] = 'false'
write('protobuf-nested', new ProtobufKafkaSerializer(), false, someLine)

// JSON Schema
RegistryClientFactory.create(settings['apicurio.registry.url']).createArtifact(
    'default', 'java-json-value', 'JSON', new ByteArrayInputStream('''{
  "$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "required": ["id"],
  "properties": {"id": {"type": "integer"}, "customer": {"type": "string"}}}'''.bytes))
settings.remove('apicurio.registry.auto-register')
settings['apicurio.registry.artifact.group-id'] = 'default'
write('json', new JsonSchemaKafkaSerializer(), false, [id: 1L << 62, customer: 'h\u00e9', lines: [[sku: 'x', price: 1.5]], note: null])

println json.writerWithDefaultPrettyPrinter().writeValueAsString(written)
